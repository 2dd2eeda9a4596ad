//! The first packet of a connection, which has no type byte: StartupMessage, CancelRequest, SSLRequest, GSSENCRequest.
//!
//! Source: `ProcessStartupPacket` in `src/backend/tcop/backend_startup.c` and `src/include/libpq/pqcomm.h`.

use std::fmt;

/// The largest first packet in bytes, length field included (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_STARTUP_PACKET: usize = 10_000;

/// The codes that stand where a StartupMessage has its protocol version (`pqcomm.h`): major 1234 is never a version.
const CANCEL_REQUEST: u32 = 1234 << 16 | 5678;
const SSL_REQUEST: u32 = 1234 << 16 | 5679;
const GSSENC_REQUEST: u32 = 1234 << 16 | 5680;

/// How many bytes the server keeps of a name (`NAMEDATALEN` in `src/include/pg_config_manual.h`, less one for the end).
pub const MAX_NAME: usize = 63;

/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client wants with its first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup {
    /// It asks for TLS.
    SslRequest,
    /// It asks for GSSAPI encryption.
    GssEncRequest,
    /// It asks to cancel what another session runs.
    Cancel(CancelKey),
    /// It opens a session.
    Session(StartupPacket),
    /// It speaks TLS at once (`sslnegotiation=direct`).
    DirectTls,
}

/// What names a session in a CancelRequest: as the server gave it in BackendKeyData.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// The server's process id.
    pub pid: i32,
    /// The secret key: 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub secret: Box<[u8]>,
}

/// Without the secret, which is in no log.
impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("CancelKey");
        shown.field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl CancelKey {
    /// Reads the body of a BackendKeyData message, or what follows the code in a CancelRequest.
    pub fn read(body: &[u8]) -> Option<Self> {
        let (pid, secret) = body.split_first_chunk()?;
        Some(Self {
            pid: i32::from_be_bytes(*pid),
            secret: secret.into(),
        })
    }

    /// The CancelRequest packet for this key.
    pub fn request(&self) -> Vec<u8> {
        let mut body = CANCEL_REQUEST.to_be_bytes().to_vec();
        body.extend_from_slice(&self.pid.to_be_bytes());
        body.extend_from_slice(&self.secret);
        let len = u32::try_from(body.len() + 4).expect("a key has at most 256 bytes");
        let mut packet = len.to_be_bytes().to_vec();
        packet.extend_from_slice(&body);
        packet
    }
}

/// The packet that asks a server for TLS.
pub fn ssl_request() -> [u8; 8] {
    let mut packet = [0, 0, 0, 8, 0, 0, 0, 0];
    packet[4..].copy_from_slice(&SSL_REQUEST.to_be_bytes());
    packet
}

/// What a StartupMessage says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartupPacket {
    /// The protocol version asked for, major and minor.
    pub version: (u16, u16),
    /// Names and values, in order; bytes that are not UTF-8 are replaced.
    pub parameters: Vec<(String, String)>,
    /// The role, as the server will call it.
    pub user: String,
    /// The database, as the server will call it.
    pub database: String,
}

impl StartupPacket {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it asks for a replication connection.
    ///
    /// Source: `parse_bool` in `src/backend/utils/adt/bool.c`, and the value `database`.
    pub fn replication(&self) -> bool {
        let Some(value) = self.get("replication") else {
            return false;
        };
        let value = value.trim().to_ascii_lowercase();
        let off = [
            "0", "off", "of", "n", "no", "f", "false", "fals", "fal", "fa",
        ];
        !off.contains(&value.as_str())
    }

    /// The database is the role's name where none is given, and of both only so many bytes count, even where that cuts
    /// a character in two.
    ///
    /// Source: `ProcessStartupPacket` in `src/backend/tcop/backend_startup.c` (`postmaster.c` before 17).
    fn read(version: u32, mut body: &[u8]) -> Self {
        let [a, b, c, d] = version.to_be_bytes();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut parameters = Vec::new();
        let (mut user, mut database): (&[u8], &[u8]) = (b"", b"");
        while let Some((name, rest)) = super::cstr(body).filter(|(name, _)| !name.is_empty()) {
            let Some((value, rest)) = super::cstr(rest) else {
                break;
            };
            match name {
                b"user" => user = value,
                b"database" => database = value,
                _ => {}
            }
            parameters.push((text(name), text(value)));
            body = rest;
        }
        let database = if database.is_empty() { user } else { database };
        let name = |bytes: &[u8]| text(bytes.get(..MAX_NAME).unwrap_or(bytes));
        Self {
            version: (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            parameters,
            user: name(user),
            database: name(database),
        }
    }
}

/// Bytes that no PostgreSQL client begins with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The length field is out of bounds.
    #[error(
        "invalid length of startup packet: {0} bytes (8 to {MAX_STARTUP_PACKET} are possible); is this a PostgreSQL client?"
    )]
    Length(u32),
    /// A CancelRequest without a process id and a key.
    #[error("invalid length of a cancel request")]
    Cancel,
}

/// Reads the first packet from the front of `bytes`; `None` when more bytes are needed.
///
/// Returns the packet and its length in bytes.
///
/// # Errors
/// Bytes that cannot become a first packet, as soon as that is known.
pub fn parse_startup(bytes: &[u8]) -> Result<Option<(Startup, usize)>, StartupError> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Some((Startup::DirectTls, 0)));
    }
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let len = usize::try_from(length).unwrap_or(usize::MAX);
    if !(8..=MAX_STARTUP_PACKET).contains(&len) {
        return Err(StartupError::Length(length));
    }
    let Some((code, body)) = rest
        .get(..len - 4)
        .and_then(|packet| packet.split_first_chunk())
    else {
        return Ok(None);
    };
    let startup = match u32::from_be_bytes(*code) {
        SSL_REQUEST => Startup::SslRequest,
        GSSENC_REQUEST => Startup::GssEncRequest,
        CANCEL_REQUEST => Startup::Cancel(CancelKey::read(body).ok_or(StartupError::Cancel)?),
        version => Startup::Session(StartupPacket::read(version, body)),
    };
    Ok(Some((startup, len)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut packet = (u32::try_from(body.len()).unwrap() + 8)
            .to_be_bytes()
            .to_vec();
        packet.extend_from_slice(&code.to_be_bytes());
        packet.extend_from_slice(body);
        packet
    }

    #[test]
    fn the_kinds_of_first_packets_are_told_apart() {
        let kind = |bytes: &[u8]| parse_startup(bytes).unwrap().unwrap().0;
        assert_eq!(kind(&ssl_request()), Startup::SslRequest);
        assert_eq!(kind(&packet(GSSENC_REQUEST, b"")), Startup::GssEncRequest);
        assert_eq!(kind(&[TLS_HANDSHAKE]), Startup::DirectTls);
        let key = CancelKey {
            pid: 77,
            secret: Box::from(*b"abcd"),
        };
        assert_eq!(kind(&key.request()), Startup::Cancel(key));
        let bytes = packet(3 << 16, b"user\0bob\0database\0shop\0\0");
        let Startup::Session(session) = kind(&bytes) else {
            panic!("not a StartupMessage");
        };
        assert_eq!(
            (session.version, &*session.user, &*session.database),
            ((3, 0), "bob", "shop")
        );
        for cut in 0..bytes.len() {
            assert_eq!(parse_startup(&bytes[..cut]), Ok(None));
        }
    }

    #[test]
    fn names_are_what_the_server_makes_of_them() {
        let names = |body: &str| {
            let packet = StartupPacket::read(3 << 16, body.as_bytes());
            (packet.user, packet.database)
        };
        let both = |user: &str, database: &str| (user.to_owned(), database.to_owned());
        assert_eq!(names("user\0bob\0\0"), both("bob", "bob"));
        assert_eq!(names("user\0bob\0database\0\0\0"), both("bob", "bob"));
        assert_eq!(
            names("user\0bob\0database\0a\0user\0eve\0database\0b\0\0"),
            both("eve", "b")
        );
        let (user, cut) = ("u".repeat(70), "u".repeat(63));
        assert_eq!(names(&format!("user\0{user}\0\0")), both(&cut, &cut));
        let (database, cut) = ("é".repeat(40), format!("{}\u{fffd}", "é".repeat(31)));
        assert_eq!(
            names(&format!("user\0bob\0database\0{database}\0\0")),
            both("bob", &cut)
        );
        assert_eq!(names("\0"), both("", ""));
    }

    #[test]
    fn replication_is_read_as_a_boolean_or_database() {
        let asks = |value: &str| {
            StartupPacket {
                parameters: vec![("replication".into(), value.into())],
                ..StartupPacket::default()
            }
            .replication()
        };
        assert!(asks("database") && asks("true") && asks("1") && asks("on"));
        assert!(
            !asks("false") && !asks("0") && !asks("off") && !StartupPacket::default().replication()
        );
    }

    #[test]
    fn garbage_is_refused_as_soon_as_it_is_known() {
        assert!(parse_startup(b"GET / HTTP/1.1\r\n").is_err());
        assert!(parse_startup(&[0, 0, 0, 7]).is_err());
        assert!(parse_startup(&packet(CANCEL_REQUEST, b"")).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), code in 0u32..4) {
            drop(parse_startup(&bytes));
            drop(parse_startup(&packet(CANCEL_REQUEST + code, &bytes)));
        }
    }
}
