//! Words that PostgreSQL's grammar reads as names and that are values: `SET app.key = word`, an option of COPY, an
//! argument of a trigger. They may be secrets, as literals may.
//!
//! Keywords are no secrets: there is a list of them. So only other words are looked for. Where it is not certain which
//! words are values, as in a CHECK constraint, one name too many is taken for one.

use pg_query::protobuf::Token;

/// A token that is no comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) token: Token,
    /// Whether it could be a name: an identifier, quoted or not, or a keyword.
    pub(super) is_name: bool,
}

/// Calls `found` with the index of each token that is a name to the grammar and a value to the server.
pub(super) fn values(tokens: &[Word], mut found: impl FnMut(usize)) {
    let mut start = 0;
    for statement in tokens.split(|word| word.token == Token::Ascii59) {
        let statement = Statement(statement);
        statement.settings(&mut |index| found(start + index));
        statement.definitions(&mut |index| found(start + index));
        statement.options(&mut |index| found(start + index));
        statement.trigger_arguments(&mut |index| found(start + index));
        start += statement.0.len() + 1;
    }
}

/// Calls `found` with the index of each token in a query that may be a column, or a value that should have been quoted as
/// one, which the server finds out only after it has locked the tables. What stands where only a relation, a function or a
/// type can stand is none.
pub(super) fn unresolved(tokens: &[Word], mut found: impl FnMut(usize)) {
    let mut start = 0;
    for statement in tokens.split(|word| word.token == Token::Ascii59) {
        Statement(statement).columns(&mut |index| found(start + index));
        start += statement.len() + 1;
    }
}

/// The tokens of one statement.
struct Statement<'a>(&'a [Word]);

impl Statement<'_> {
    fn token(&self, index: usize) -> Option<Token> {
        self.0.get(index).map(|word| word.token)
    }

    fn is_name(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|word| word.is_name)
    }

    /// `SET name TO value, value`, also in ALTER ROLE, DATABASE, SYSTEM and FUNCTION, and in CREATE FUNCTION; but not
    /// the SET of an UPDATE.
    fn settings(&self, found: &mut impl FnMut(usize)) {
        let before_update = self.0.iter().take_while(|word| word.token != Token::Update);
        for (index, word) in before_update.enumerate() {
            if word.token == Token::Set {
                self.setting(index + 1, found);
            }
        }
    }

    fn setting(&self, mut at: usize, found: &mut impl FnMut(usize)) {
        if matches!(self.token(at), Some(Token::Local | Token::Session)) && self.is_name(at + 1) {
            at += 1;
        }
        if (self.token(at), self.token(at + 1)) == (Some(Token::Time), Some(Token::Zone)) {
            return found(at + 2);
        }
        while self.is_name(at) && self.token(at + 1) == Some(Token::Ascii46) {
            at += 2;
        }
        if !matches!(self.token(at + 1), Some(Token::Ascii61 | Token::To)) {
            return;
        }
        at += 2;
        loop {
            let signed = matches!(self.token(at), Some(Token::Ascii43 | Token::Ascii45));
            at += usize::from(signed);
            found(at);
            if self.token(at + 1) != Some(Token::Ascii44) {
                return;
            }
            at += 2;
        }
    }

    /// `name = value` before any query: the options of subscriptions, dictionaries, and of all that is
    /// made with a list of definitions.
    fn definitions(&self, found: &mut impl FnMut(usize)) {
        let before_query = self
            .0
            .iter()
            .take_while(|word| !QUERIES.contains(&word.token));
        let equals = |word: &Word| word.token == Token::Ascii61;
        for (index, _) in before_query.enumerate().filter(|(_, word)| equals(word)) {
            found(index + 1);
        }
    }

    /// `(name value, name value)` in the statements that take options in this way.
    fn options(&self, found: &mut impl FnMut(usize)) {
        if !self
            .token(0)
            .is_some_and(|first| WITH_OPTIONS.contains(&first))
        {
            return;
        }
        let mut depth = 0_usize;
        let mut in_query = false;
        for (index, word) in self.0.iter().enumerate() {
            if word.token == Token::Ascii40 {
                depth += 1;
                let next = self.token(index + 1);
                in_query |= next.is_some_and(|next| QUERIES.contains(&next));
            } else if word.token == Token::Ascii41 {
                depth = depth.saturating_sub(1);
                in_query &= depth > 0;
            } else if depth == 1 && !in_query && index > 0 && self.is_name(index - 1) {
                found(index);
            }
        }
    }

    fn columns(&self, found: &mut impl FnMut(usize)) {
        let is_query = |word: &Word| QUERIES.contains(&word.token);
        let mut at = self.0.iter().position(is_query).unwrap_or(self.0.len());
        // Whether a query, and not a call such as `extract(… FROM …)`, is in each open parenthesis.
        let mut queries = vec![true];
        while at < self.0.len() {
            match self.token(at) {
                Some(Token::Ascii40) => {
                    let next = self.token(at + 1);
                    queries.push(next.is_some_and(|next| QUERIES.contains(&next)));
                }
                Some(Token::Ascii41) if queries.len() > 1 => {
                    queries.pop();
                }
                _ => {}
            }
            if !self.is_name(at) {
                at += 1;
                continue;
            }
            let mut end = at + 1;
            while self.token(end) == Some(Token::Ascii46) && self.is_name(end + 1) {
                end += 2;
            }
            let before = at.checked_sub(1).and_then(|before| self.token(before));
            let distinct = at.checked_sub(2).and_then(|before| self.token(before));
            let of_relation = match before {
                Some(Token::From) => {
                    queries.last() == Some(&true) && distinct != Some(Token::Distinct)
                }
                Some(before) => BEFORE_RELATIONS.contains(&before),
                None => false,
            };
            if !of_relation && self.token(end) != Some(Token::Ascii40) {
                (at..end).for_each(&mut *found);
            }
            at = end;
        }
    }

    /// What stands between the parentheses of `EXECUTE FUNCTION name (…)`.
    fn trigger_arguments(&self, found: &mut impl FnMut(usize)) {
        for (index, word) in self.0.iter().enumerate() {
            let calls = word.token == Token::Execute
                && matches!(
                    self.token(index + 1),
                    Some(Token::Function | Token::Procedure)
                );
            if !calls {
                continue;
            }
            let after =
                (index..self.0.len()).skip_while(|&at| self.token(at) != Some(Token::Ascii40));
            for argument in after.take_while(|&at| self.token(at) != Some(Token::Ascii41)) {
                found(argument);
            }
        }
    }
}

/// What a query begins with.
const QUERIES: &[Token] = &[
    Token::Select,
    Token::Insert,
    Token::Update,
    Token::DeleteP,
    Token::Merge,
    Token::Values,
];

/// What stands before the name of a relation, and a type; FROM stands before values too.
const BEFORE_RELATIONS: &[Token] = &[
    Token::Join,
    Token::Into,
    Token::Update,
    Token::Only,
    Token::Using,
    Token::Typecast,
];

/// Statements with options that are a name and a word.
const WITH_OPTIONS: &[Token] = &[
    Token::Copy,
    Token::Explain,
    Token::Vacuum,
    Token::Analyze,
    Token::Analyse,
    Token::Reindex,
    Token::Cluster,
];
