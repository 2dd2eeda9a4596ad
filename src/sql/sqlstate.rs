//! What the SQLSTATE of an error tells of the statement that drew it.

/// Whether an error with this SQLSTATE comes only after the server has found what the names in a statement stand for:
/// while it is carried out, not while it is read.
pub fn found_names(sqlstate: &[u8]) -> bool {
    const CLASSES: [&[u8]; 8] = [b"21", b"23", b"40", b"44", b"53", b"55", b"57", b"P0"];
    // Division by zero, and strings that are too long: of class 22, much is found out by the parser.
    const OTHERS: [&[u8]; 2] = [b"22012", b"22001"];
    CLASSES.iter().any(|class| sqlstate.starts_with(class)) || OTHERS.contains(&sqlstate)
}
