//! The settings under which a text is divided into tokens, and the part of a text that means the same under all of them.

/// The session's settings that change how the server divides a text into tokens.
///
/// A text with neither quotes, backslashes nor non-ASCII bytes means the same under all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lexing {
    /// `standard_conforming_strings`: when off, a backslash in a plain literal escapes what follows.
    pub standard_conforming_strings: bool,
    /// Whether `client_encoding` is one that PostgreSQL takes only from clients, see [`is_client_only_encoding`].
    pub client_only_encoding: bool,
}

impl Default for Lexing {
    fn default() -> Self {
        Self {
            standard_conforming_strings: true,
            client_only_encoding: false,
        }
    }
}

impl Lexing {
    /// Whether plain literals have no escapes and every byte of a character has its own meaning.
    pub fn is_server_safe(self) -> bool {
        self.standard_conforming_strings && !self.client_only_encoding
    }
}

/// The front of a text that means the same under all settings (see [`Lexing`]).
pub fn certain_front(text: &[u8]) -> &[u8] {
    let in_doubt = text
        .iter()
        .position(|b| matches!(b, b'\'' | b'\\' | 0x80..));
    in_doubt.and_then(|end| text.get(..end)).unwrap_or(text)
}

/// Whether this is an encoding in which a byte of a multibyte character can look like ASCII, and which PostgreSQL
/// therefore takes only as `client_encoding`. Compares as PostgreSQL does: case and punctuation do not matter.
pub fn is_client_only_encoding(name: &[u8]) -> bool {
    CLIENT_ONLY_ENCODINGS.iter().any(|encoding| {
        let letters = name.iter().filter(|b| b.is_ascii_alphanumeric());
        letters.map(|b| b.to_ascii_lowercase()).eq(encoding.bytes())
    })
}

/// `src/common/encnames.c`: names and aliases of the encodings from `PG_SJIS` on, as PostgreSQL compares them.
const CLIENT_ONLY_ENCODINGS: [&str; 17] = [
    "sjis",
    "mskanji",
    "shiftjis",
    "win932",
    "windows932",
    "shiftjis2004",
    "big5",
    "win950",
    "windows950",
    "gbk",
    "win936",
    "windows936",
    "uhc",
    "win949",
    "windows949",
    "gb18030",
    "johab",
];
