//! The PROXY protocol's header, by which a load balancer says for whom it speaks: versions 1 (text) and 2 (binary).
//!
//! Source: <https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt>, section 2.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str,
};

/// The signature of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The first bytes of version 1.
const PROXY: &[u8] = b"PROXY ";

/// The longest line of version 1 in bytes, with its end.
const MAX_LINE: usize = 107;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Who connected to the load balancer; `None` when it speaks for itself, or does not say.
    pub source: Option<SocketAddr>,
    /// The length of the header in bytes.
    pub len: usize,
}

/// Bytes that begin no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY protocol header")]
pub struct ProxyHeaderError;

/// Reads a header from the front of `bytes`; `None` when all of them belong to it and more are needed.
///
/// # Errors
/// Bytes that cannot become a header, as soon as that is known.
pub fn read_proxy_header(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let begins = |with: &[u8]| {
        let shared = with.len().min(bytes.len());
        bytes.get(..shared) == with.get(..shared)
    };
    if begins(SIGNATURE) {
        read_binary(bytes)
    } else if begins(PROXY) {
        read_line(bytes)
    } else {
        Err(ProxyHeaderError)
    }
}

fn read_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|&byte| byte == b'\n') else {
        return if bytes.len() < MAX_LINE {
            Ok(None)
        } else {
            Err(ProxyHeaderError)
        };
    };
    let line = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.and_then(|line| str::from_utf8(line).ok());
    let words: Vec<_> = line.unwrap_or_default().split(' ').collect();
    let source = match *words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4" | "TCP6", source, _, port, _] => {
            let address = source.parse::<IpAddr>().map_err(|_| ProxyHeaderError)?;
            let port = port.parse::<u16>().map_err(|_| ProxyHeaderError)?;
            Some(SocketAddr::new(address, port))
        }
        _ => return Err(ProxyHeaderError),
    };
    Ok(Some(ProxyHeader {
        source,
        len: end + 1,
    }))
}

fn read_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let rest = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    let Some((&[command, family, high, low], rest)) = rest.split_first_chunk() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    let Some(body) = rest.get(..len) else {
        return Ok(None);
    };
    let source = match (command, family) {
        // LOCAL: a health check of the load balancer's own.
        (0x20, _) => None,
        (0x21, 0x11) => {
            let (source, rest) = body.split_first_chunk::<4>().ok_or(ProxyHeaderError)?;
            let port = rest.get(4..6).ok_or(ProxyHeaderError)?;
            Some(socket(Ipv4Addr::from(*source).into(), port))
        }
        (0x21, 0x21) => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(ProxyHeaderError)?;
            let port = rest.get(16..18).ok_or(ProxyHeaderError)?;
            Some(socket(Ipv6Addr::from(*source).into(), port))
        }
        (0x21, _) => None,
        _ => return Err(ProxyHeaderError),
    };
    Ok(Some(ProxyHeader {
        source,
        len: SIGNATURE.len() + 4 + len,
    }))
}

fn socket(address: IpAddr, port: &[u8]) -> SocketAddr {
    let port = port
        .iter()
        .fold(0, |port: u16, &byte| port << 8 | u16::from(byte));
    SocketAddr::new(address, port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, body].concat()
    }

    /// The source, or `-` where none is said.
    fn source(bytes: &[u8]) -> String {
        let with_more = [bytes, b"more"].concat();
        let header = read_proxy_header(&with_more).unwrap().unwrap();
        assert_eq!(header.len, bytes.len());
        for cut in 0..bytes.len() {
            assert_eq!(read_proxy_header(&bytes[..cut]), Ok(None), "{cut}");
        }
        let source = header.source.map(|source| source.to_string());
        source.unwrap_or_else(|| "-".to_owned())
    }

    #[test]
    fn both_versions_name_the_source() {
        let four = b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 5432\r\n";
        assert_eq!(source(four), "192.0.2.7:51000");
        let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 5432\r\n";
        assert_eq!(source(six), "[2001:db8::7]:51000");
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), "-");
        let body = [192, 0, 2, 7, 192, 0, 2, 1, 0xc7, 0x38, 0x15, 0x38, 9, 9];
        let found = source(&binary(0x21, 0x11, &body));
        assert_eq!(found, "192.0.2.7:51000");
        let mut body = [0; 36];
        (body[15], body[33]) = (1, 80);
        assert_eq!(source(&binary(0x21, 0x21, &body)), "[::1]:80");
        assert_eq!(source(&binary(0x20, 0x11, &[])), "-");
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let bad: [&[u8]; 7] = [
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"PROXY TCP4 192.0.2.7\r\n",
            b"PROXY TCP4 a b 1 2\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 5432\r\n",
            b"PROXY UNKNOWN\n",
            &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat(),
            &binary(0x21, 0x11, &[1, 2, 3]),
        ];
        for bytes in bad {
            assert_eq!(read_proxy_header(bytes), Err(ProxyHeaderError), "{bytes:?}");
        }
        assert!(read_proxy_header(&binary(0x31, 0x11, &[0; 12])).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), command: u8, family: u8) {
            for front in [&SIGNATURE[..], PROXY, b""] {
                read_proxy_header(&[front, &bytes].concat()).ok();
            }
            read_proxy_header(&binary(command, family, &bytes)).ok();
        }
    }
}
