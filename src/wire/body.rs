//! Views of the few message bodies that are looked into: borrowed, lenient, never a panic.
//!
//! A body that does not have the documented form gives `None`; the server will say what is wrong with it.

/// Splits a NUL-terminated string off the front of `bytes`.
pub fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    let (text, rest) = bytes.split_at(end);
    Some((text, rest.get(1..)?))
}

/// The names and the text in a Parse message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed one.
    pub statement: &'a [u8],
    /// The text, as much of it as has come.
    pub text: &'a [u8],
    /// The types of the parameters, as they lie in the message; empty when they have not come.
    types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the front of a Parse body, which may lack its end.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (statement, rest) = cstr(body)?;
        let (text, types) = cstr(rest).unwrap_or((rest, &[]));
        Some(Self {
            statement,
            text,
            types: types.get(2..).unwrap_or_default(),
        })
    }

    /// The types that the client gives its parameters; 0 for one that the server chooses.
    pub fn parameter_types(&self) -> impl Iterator<Item = u32> {
        let (types, _) = self.types.as_chunks();
        types.iter().map(|&oid| u32::from_be_bytes(oid))
    }
}

/// The names in a Bind message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The statement's name; empty for the unnamed one.
    pub statement: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the front of a Bind body, which may lack its end.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (portal, rest) = cstr(body)?;
        let (statement, _) = cstr(rest)?;
        Some(Self { portal, statement })
    }
}

/// The portal that an Execute message runs.
pub fn execute_portal(body: &[u8]) -> Option<&[u8]> {
    cstr(body).map(|(portal, _)| portal)
}

/// What a Describe or Close message speaks of: `S` (statement) or `P` (portal), and its name.
pub fn describe_target(body: &[u8]) -> Option<(u8, &[u8])> {
    let (&target, rest) = body.split_first()?;
    Some((target, cstr(rest)?.0))
}

/// Name and value in a ParameterStatus message.
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = cstr(body)?;
    let (value, _) = cstr(rest)?;
    Some((name, value))
}

/// The command tags that change what is known of a transaction.
///
/// Source: `src/include/tcop/cmdtaglist.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandTag {
    /// BEGIN or START TRANSACTION.
    Begin,
    /// COMMIT that was carried out, AND CHAIN or not.
    Commit,
    /// ROLLBACK of any kind, and COMMIT or PREPARE TRANSACTION in a failed transaction.
    Rollback,
    /// PREPARE TRANSACTION that was carried out.
    Prepare,
    /// SAVEPOINT.
    Savepoint,
    /// RELEASE SAVEPOINT.
    Release,
    /// DEALLOCATE of one prepared statement.
    Deallocate,
    /// DISCARD ALL or DEALLOCATE ALL: every prepared statement is gone.
    ForgetAll,
    /// A command that says how many rows it has read or written, and is a part of its transaction.
    Data,
    /// Any other command.
    Other,
}

impl CommandTag {
    /// Reads the body of a CommandComplete message.
    pub fn read(body: &[u8]) -> Self {
        match body {
            b"BEGIN\0" | b"START TRANSACTION\0" => Self::Begin,
            b"COMMIT\0" => Self::Commit,
            b"ROLLBACK\0" => Self::Rollback,
            b"PREPARE TRANSACTION\0" => Self::Prepare,
            b"SAVEPOINT\0" => Self::Savepoint,
            b"RELEASE\0" => Self::Release,
            b"DEALLOCATE\0" => Self::Deallocate,
            b"DISCARD ALL\0" | b"DEALLOCATE ALL\0" => Self::ForgetAll,
            // `SELECT 1`
            [.., b'0'..=b'9', b'\0'] => Self::Data,
            _ => Self::Other,
        }
    }
}

/// The fields of an ErrorResponse or NoticeResponse that decide anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// The severity, not translated (`V`; the translated `S` from servers before 9.6).
    pub severity: &'a [u8],
    /// The SQLSTATE (`C`).
    pub sqlstate: &'a [u8],
    /// The message (`M`).
    pub message: &'a [u8],
    /// The function of the server that it comes from (`R`).
    pub routine: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Reads the fields of a body, which may lack its end.
    pub fn read(mut body: &'a [u8]) -> Self {
        let mut fields = Self::default();
        while let Some((&code, rest)) = body.split_first() {
            let Some((value, rest)) = cstr(rest) else {
                break;
            };
            match code {
                b'V' => fields.severity = value,
                b'S' if fields.severity.is_empty() => fields.severity = value,
                b'C' => fields.sqlstate = value,
                b'M' => fields.message = value,
                b'R' => fields.routine = value,
                _ => {}
            }
            body = rest;
        }
        fields
    }

    /// Whether the server closes the connection after it.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity, b"FATAL" | b"PANIC")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies_are_read_as_documented() {
        let parse = Parse::read(b"s1\0SELECT 1\0\0\0").unwrap();
        assert_eq!(
            (parse.statement, parse.text),
            (&b"s1"[..], &b"SELECT 1"[..])
        );
        assert_eq!(Parse::read(b"\0SELECT").unwrap().text, b"SELECT");
        let bind = Bind::read(b"p\0s\0\0\0\0\0\0\0").unwrap();
        assert_eq!((bind.portal, bind.statement), (&b"p"[..], &b"s"[..]));
        assert_eq!(describe_target(b"Sx\0"), Some((b'S', &b"x"[..])));
        assert_eq!(execute_portal(b"\0\0\0\0\0"), Some(&b""[..]));
        assert_eq!(parameter_status(b"a\0b\0"), Some((&b"a"[..], &b"b"[..])));
        let fields = ErrorFields::read(b"SFEHLER\0VERROR\0C25P02\0Mno\0\0");
        assert_eq!(
            (fields.severity, fields.sqlstate),
            (&b"ERROR"[..], &b"25P02"[..])
        );
        assert!(!fields.is_fatal() && ErrorFields::read(b"SFATAL\0\0").is_fatal());
    }

    #[test]
    fn errors_may_lack_any_field() {
        for body in [&b""[..], b"\0", b"C", b"C25P02", b"Mno\0\0", b"\0C25P02\0"] {
            let fields = ErrorFields::read(body);
            assert_eq!(fields.sqlstate, b"", "{body:?}");
            assert!(!fields.is_fatal(), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_without_a_panic(body in prop::collection::vec(0u8..4, 0..24)) {
            let _ = (Parse::read(&body), Bind::read(&body), execute_portal(&body), describe_target(&body));
            let _ = (parameter_status(&body), CommandTag::read(&body), ErrorFields::read(&body));
        }
    }
}
