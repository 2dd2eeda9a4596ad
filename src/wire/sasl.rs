//! What of SASL cannot pass a proxy as it is: channel binding, by which client and server prove to each other that they
//! are the two ends of one TLS connection.
//!
//! Source: RFC 5802, section 6; `src/backend/libpq/auth-scram.c`.

/// The suffix of a mechanism that binds.
const BINDS: &[u8] = b"-PLUS";

/// The code of AuthenticationSASL among the messages of type `R`.
const SASL: [u8; 4] = 10_u32.to_be_bytes();

/// Reads the body of an authentication message: the mechanisms that do not bind, where others are offered too.
pub fn mechanisms_without_binding(body: &[u8]) -> Option<Vec<String>> {
    let mut list = body.strip_prefix(&SASL)?;
    let (mut kept, mut binds) = (Vec::new(), false);
    while let Some((name, rest)) = super::cstr(list).filter(|(name, _)| !name.is_empty()) {
        if name.ends_with(BINDS) {
            binds = true;
        } else {
            kept.push(String::from_utf8_lossy(name).into_owned());
        }
        list = rest;
    }
    binds.then_some(kept)
}

/// Whether the body of a SASLInitialResponse says that the client could bind and was not offered to (the flag `y`): a
/// server that does offer it takes that for an attack.
pub fn misses_binding(body: &[u8]) -> bool {
    super::cstr(body).is_some_and(|(_, rest)| matches!(rest, [_, _, _, _, b'y', b',', ..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mechanisms_that_bind_are_left_out() {
        let offered = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let kept = mechanisms_without_binding(offered).unwrap();
        assert_eq!(kept, ["SCRAM-SHA-256"]);
        let without = [
            &b"\0\0\0\x0aSCRAM-SHA-256\0OAUTHBEARER\0\0"[..],
            b"\0\0\0\0",
            b"",
        ];
        for body in without {
            assert_eq!(mechanisms_without_binding(body), None);
        }
    }

    #[test]
    fn the_flag_is_found() {
        let first = |flag: &str| format!("SCRAM-SHA-256\0\0\0\0\x09{flag},,n=,r=x").into_bytes();
        assert!(misses_binding(&first("y")));
        assert!(!misses_binding(&first("n")));
        assert!(!misses_binding(&first("p=tls-server-end-point")));
        assert!(!misses_binding(b"yyyyyy,") && !misses_binding(b"X\0\xff\xff\xff\xff"));
    }
}
