//! PostgreSQL's tokens (`src/backend/parser/scan.l`), as far as it takes to find the end of a statement and to read
//! the statements that control a transaction. Allocates nothing; never fails: what breaks off inside a token is
//! [`Token::Other`] up to the end, and the server refuses such a text as a whole.

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword or an unquoted name.
    Word(&'a [u8]),
    /// What stands inside the quotes of a quoted name, where a doubled quote stands for one.
    Quoted(&'a [u8]),
    /// A quoted name with Unicode escapes (`U&"…"`).
    Escaped,
    /// A string: `'…'`, `E'…'`, `U&'…'` or `$$…$$`.
    String,
    Comma,
    Dot,
    Semicolon,
    Open,
    Close,
    /// The end of the text.
    End,
    /// Any other token.
    Other,
}

/// Divides a text into tokens.
#[derive(Clone, Debug)]
pub(super) struct Lexer<'a> {
    rest: &'a [u8],
    /// Whether a backslash in a plain string escapes what follows (`standard_conforming_strings` is off).
    escapes: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8], escapes: bool) -> Self {
        Self {
            rest: text,
            escapes,
        }
    }

    /// Whether nothing follows the last token that was taken.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next token; [`Token::End`] for ever after the last one.
    pub(super) fn next(&mut self) -> Token<'a> {
        let (token, rest) = match skip_blank(self.rest) {
            Some(text) => self.scan(text),
            None => (Token::Other, &[][..]),
        };
        self.rest = rest;
        token
    }

    /// The first token of a text that begins with neither whitespace nor a comment, and what follows it.
    fn scan(&self, text: &'a [u8]) -> (Token<'a>, &'a [u8]) {
        let Some((&first, rest)) = text.split_first() else {
            return (Token::End, text);
        };
        match first {
            b';' => (Token::Semicolon, rest),
            b',' => (Token::Comma, rest),
            b'.' => (Token::Dot, rest),
            b'(' => (Token::Open, rest),
            b')' => (Token::Close, rest),
            b'\'' => string(rest, self.escapes),
            b'"' => name(rest),
            b'$' => match dollar_quoted(rest) {
                Some(Some(after)) => (Token::String, after),
                Some(None) => (Token::Other, &[]),
                None => (Token::Other, rest),
            },
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => {
                let is_inside = |b: &u8| is_name_byte(*b) || *b == b'$';
                let len = text.iter().take_while(|b| is_inside(b)).count();
                let (word, after) = text.split_at(len);
                match (word, after) {
                    ([b'e' | b'E'], [b'\'', inside @ ..]) => string(inside, true),
                    ([b'b' | b'B' | b'x' | b'X'], [b'\'', inside @ ..]) => {
                        (Token::Other, string(inside, false).1)
                    }
                    ([b'u' | b'U'], [b'&', b'\'', inside @ ..]) => string(inside, false),
                    ([b'u' | b'U'], [b'&', b'"', inside @ ..]) => match name(inside) {
                        (Token::Quoted(_), after) => (Token::Escaped, after),
                        other => other,
                    },
                    (_, _) => (Token::Word(word), after),
                }
            }
            _ => (Token::Other, rest),
        }
    }
}

/// Whether a byte may stand in an unquoted name, or in the tag of a dollar-quoted string.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | 0x80..)
}

/// A string whose opening quote was read. It goes on in the next quotes when only whitespace with a line break, or
/// comments to the end of the line, stand between (`quotecontinue`).
fn string(mut text: &[u8], escapes: bool) -> (Token<'_>, &[u8]) {
    loop {
        let Some(after) = string_part(text, escapes) else {
            return (Token::Other, &[]);
        };
        let mut rest = after;
        let mut broken = false;
        while let [b' ' | b'\t'..=b'\r', ..] | [b'-', b'-', ..] = rest {
            broken |= matches!(rest, [b'\n' | b'\r', ..]);
            rest = match rest {
                [b'-', b'-', comment @ ..] => skip_line(comment),
                [_, rest @ ..] => rest,
                [] => rest,
            };
        }
        match rest {
            [b'\'', next @ ..] if broken => text = next,
            _ => return (Token::String, after),
        }
    }
}

/// What follows the closing quote; `None` when there is none.
fn string_part(text: &[u8], escapes: bool) -> Option<&[u8]> {
    if !escapes {
        return quoted(text, b'\'').map(|(_, after)| after);
    }
    let mut rest = text;
    loop {
        let at = memchr::memchr2(b'\'', b'\\', rest)?;
        rest = match rest.get(at..)? {
            [b'\'', b'\'', rest @ ..] | [b'\\', _, rest @ ..] => rest,
            [b'\'', after @ ..] => return Some(after),
            _ => return None,
        };
    }
}

/// A quoted name whose opening quote was read.
fn name(text: &[u8]) -> (Token<'_>, &[u8]) {
    match quoted(text, b'"') {
        Some((inside, after)) if !inside.is_empty() => (Token::Quoted(inside), after),
        Some((_, after)) => (Token::Other, after),
        None => (Token::Other, &[]),
    }
}

/// What stands between quotes (a doubled one does not end it) and what follows.
fn quoted(text: &[u8], quote: u8) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        at += memchr::memchr(quote, text.get(at..)?)?;
        if text.get(at + 1) != Some(&quote) {
            return Some((text.get(..at)?, text.get(at + 1..)?));
        }
        at += 2;
    }
}

/// What follows a dollar-quoted string whose first `$` was read; `None` when no such string begins here, and
/// `Some(None)` when it does not end.
fn dollar_quoted(text: &[u8]) -> Option<Option<&[u8]>> {
    let len = text.iter().take_while(|b| is_name_byte(**b)).count();
    let (tag, rest) = text.split_at(len);
    if tag.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let mut rest = rest.strip_prefix(b"$")?;
    loop {
        let Some((_, after)) =
            memchr::memchr(b'$', rest).and_then(|at| rest.split_at_checked(at + 1))
        else {
            return Some(None);
        };
        match after
            .strip_prefix(tag)
            .and_then(|end| end.strip_prefix(b"$"))
        {
            Some(end) => return Some(Some(end)),
            None => rest = after,
        }
    }
}

/// The text after whitespace and comments; `None` when a comment does not end.
fn skip_blank(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, rest @ ..] => rest,
            [b'-', b'-', rest @ ..] => skip_line(rest),
            [b'/', b'*', rest @ ..] => skip_block_comment(rest)?,
            _ => return Some(text),
        }
    }
}

/// The text from the end of the line on.
fn skip_line(text: &[u8]) -> &[u8] {
    let end = memchr::memchr2(b'\n', b'\r', text);
    end.map_or(&[][..], |end| text.split_at(end).1)
}

/// The text after a block comment whose opening was read; they nest.
fn skip_block_comment(mut text: &[u8]) -> Option<&[u8]> {
    let mut depth = 1_usize;
    while depth > 0 {
        text = match text {
            [b'*', b'/', rest @ ..] => {
                depth -= 1;
                rest
            }
            [b'/', b'*', rest @ ..] => {
                depth += 1;
                rest
            }
            [_, rest @ ..] => rest,
            [] => return None,
        };
    }
    Some(text)
}
