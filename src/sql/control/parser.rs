//! The productions of PostgreSQL's grammar for transaction control, and where a statement ends.

use super::{Control, Controlling, Identifier, Lexing, MAX_CONTROLS, Outline, StatementList};
use crate::sql::lexer::{Lexer, Token};

/// Reads statements with one token of lookahead.
pub(super) struct Parser<'a> {
    lexer: Lexer<'a>,
    next: Token<'a>,
    /// The savepoint that the statement names.
    savepoint: Option<Identifier>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a [u8], lexing: Lexing) -> Self {
        let mut lexer = Lexer::new(text, !lexing.standard_conforming_strings);
        Self {
            next: lexer.next(),
            lexer,
            savepoint: None,
        }
    }

    /// A text that is one statement or none.
    pub(super) fn only(&mut self) -> Outline {
        self.skip_empty();
        if self.next == Token::End {
            return StatementList {
                count: 0,
                whole: true,
                may_end: false,
                controls: Vec::new(),
                in_doubt: None,
            }
            .into();
        }
        let may_end = self.may_end(true);
        let control = self.statement();
        match (self.at_end(), self.savepoint.take()) {
            (true, None) if control != Control::Other => Outline::One(control),
            (true, savepoint @ Some(_)) => StatementList {
                count: 1,
                whole: true,
                may_end,
                controls: vec![Controlling {
                    index: 0,
                    control,
                    savepoint,
                }],
                in_doubt: None,
            }
            .into(),
            _ if may_end => Outline::One(Control::Doubtful),
            _ => Outline::One(Control::Other),
        }
    }

    /// Statements between semicolons. The last one of a text that is not `whole` is not known.
    pub(super) fn list(&mut self, whole: bool) -> Outline {
        self.skip_empty();
        let mut list = StatementList {
            count: 0,
            whole,
            may_end: self.may_end(whole),
            controls: Vec::new(),
            in_doubt: None,
        };
        loop {
            self.skip_empty();
            if self.next == Token::End {
                return list.into();
            }
            self.savepoint = None;
            let control = self.statement();
            let alone = self.at_end();
            self.skip_statement();
            if self.next == Token::End && !whole {
                return list.into();
            }
            if alone && control != Control::Other {
                if list.controls.len() == MAX_CONTROLS {
                    list.whole = false;
                    return list.into();
                }
                list.controls.push(Controlling {
                    index: list.count,
                    control,
                    savepoint: self.savepoint.take(),
                });
            }
            list.count += 1;
        }
    }

    /// Whether the statement begins like those that a failed transaction lets through, as far as it is known.
    fn may_end(&self, whole: bool) -> bool {
        let cut = !whole && self.lexer.is_at_end();
        match self.next {
            Token::Word(word) => cut || ENDS.iter().any(|end| word.eq_ignore_ascii_case(end)),
            Token::End => cut,
            Token::Quoted(_)
            | Token::Escaped
            | Token::String
            | Token::Comma
            | Token::Dot
            | Token::Semicolon
            | Token::Open
            | Token::Close
            | Token::Other => false,
        }
    }

    /// Goes past semicolons.
    fn skip_empty(&mut self) {
        while self.next == Token::Semicolon {
            self.advance();
        }
    }

    /// Goes to the end of a statement. A semicolon ends it unless it stands in the parentheses of CREATE RULE or in the
    /// body of a routine (`BEGIN ATOMIC … END`). The END of a body stands where a statement would; any other is that of a
    /// CASE, or the name of a column.
    fn skip_statement(&mut self) {
        let created = self.take(b"create");
        if created && self.take(b"or") {
            self.take(b"replace");
        }
        let routine = created && (self.take(b"function") || self.take(b"procedure"));
        let (mut parentheses, mut cases, mut body) = (0_usize, 0_usize, false);
        let (mut before, mut begins) = (Token::Other, false);
        while self.next != Token::End && (self.next != Token::Semicolon || parentheses > 0 || body)
        {
            let is = |token, word: &[u8]| matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word));
            // What follows AS or a dot is a name.
            let keyword = routine && parentheses == 0 && before != Token::Dot && !is(before, b"as");
            let opens = keyword && !body && is(before, b"begin") && is(self.next, b"atomic");
            if self.next == Token::Open {
                parentheses += 1;
            } else if self.next == Token::Close {
                parentheses = parentheses.saturating_sub(1);
            } else if self.next == Token::Semicolon {
                cases = 0;
            } else if opens {
                body = true;
            } else if keyword && is(self.next, b"case") {
                cases += 1;
            } else if keyword && is(self.next, b"end") {
                body &= cases > 0 || !begins;
                cases = cases.saturating_sub(1);
            }
            begins = opens || self.next == Token::Semicolon;
            before = self.next;
            self.advance();
        }
    }

    /// Whether the statement is over.
    fn at_end(&self) -> bool {
        matches!(self.next, Token::Semicolon | Token::End)
    }

    /// One statement, up to the first token that does not belong to it (`TransactionStmt` in `gram.y`).
    fn statement(&mut self) -> Control {
        if self.take(b"begin") {
            self.work();
            self.modes(Control::Begin)
        } else if self.take(b"start") {
            if self.take(b"transaction") {
                self.modes(Control::Begin)
            } else {
                Control::Other
            }
        } else if self.take(b"commit") || self.take(b"end") {
            self.work();
            self.chain(Control::Commit, Control::CommitAndChain)
        } else if self.take(b"abort") {
            self.work();
            self.chain(Control::Rollback, Control::RollbackAndChain)
        } else if self.take(b"rollback") {
            self.work();
            if self.take(b"to") {
                self.savepoint(Control::RollbackTo)
            } else {
                self.chain(Control::Rollback, Control::RollbackAndChain)
            }
        } else if self.take(b"savepoint") {
            self.name(Control::Savepoint)
        } else if self.take(b"release") {
            self.savepoint(Control::Release)
        } else if self.take(b"prepare") && self.take(b"transaction") && self.next == Token::String {
            self.advance();
            self.escape();
            Control::PrepareTransaction
        } else {
            Control::Other
        }
    }

    /// `[WORK | TRANSACTION]`
    fn work(&mut self) {
        if !self.take(b"work") {
            self.take(b"transaction");
        }
    }

    /// `[AND [NO] CHAIN]`
    fn chain(&mut self, plain: Control, chained: Control) -> Control {
        if !self.take(b"and") {
            return plain;
        }
        let control = if self.take(b"no") { plain } else { chained };
        if self.take(b"chain") {
            control
        } else {
            Control::Other
        }
    }

    /// `[SAVEPOINT] name`, where the name itself may be `savepoint`.
    fn savepoint(&mut self, control: Control) -> Control {
        let word = self.next;
        if self.take(b"savepoint") && !self.at_name() {
            self.savepoint = named(word);
            return control;
        }
        self.name(control)
    }

    fn name(&mut self, control: Control) -> Control {
        if !self.at_name() {
            return Control::Other;
        }
        self.savepoint = named(self.next);
        self.advance();
        self.escape();
        control
    }

    fn at_name(&self) -> bool {
        matches!(
            self.next,
            Token::Word(_) | Token::Quoted(_) | Token::Escaped
        )
    }

    /// `[UESCAPE 'character']`
    fn escape(&mut self) {
        if self.take(b"uescape") && self.next == Token::String {
            self.advance();
        }
    }

    /// `[mode [[,] mode …]]`
    fn modes(&mut self, control: Control) -> Control {
        if !matches!(self.next, Token::Word(_)) {
            return control;
        }
        loop {
            if !self.mode() {
                return Control::Other;
            }
            if self.next == Token::Comma {
                self.advance();
            } else if !matches!(self.next, Token::Word(_)) {
                return control;
            }
        }
    }

    /// One of the transaction modes.
    fn mode(&mut self) -> bool {
        if self.take(b"isolation") {
            self.take(b"level")
                && if self.take(b"read") {
                    self.take(b"committed") || self.take(b"uncommitted")
                } else if self.take(b"repeatable") {
                    self.take(b"read")
                } else {
                    self.take(b"serializable")
                }
        } else if self.take(b"read") {
            self.take(b"only") || self.take(b"write")
        } else {
            self.take(b"not");
            self.take(b"deferrable")
        }
    }

    /// Goes past a keyword (in lower case), if it is the next token.
    fn take(&mut self, keyword: &[u8]) -> bool {
        let found = matches!(self.next, Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        if found {
            self.advance();
        }
        found
    }

    fn advance(&mut self) {
        self.next = self.lexer.next();
    }
}

/// The savepoint that a token names.
fn named(token: Token<'_>) -> Option<Identifier> {
    match token {
        Token::Word(name) => Identifier::unquoted(name),
        Token::Quoted(inside) => Identifier::quoted(inside),
        Token::Escaped
        | Token::String
        | Token::Comma
        | Token::Dot
        | Token::Semicolon
        | Token::Open
        | Token::Close
        | Token::End
        | Token::Other => None,
    }
}

/// The first words of the statements that a failed transaction lets through (`IsTransactionExitStmt` in
/// `src/backend/tcop/postgres.c`).
const ENDS: [&[u8]; 5] = [b"commit", b"end", b"rollback", b"abort", b"prepare"];
