//! Where a socket listens or connects: `HOST:PORT`, `[IPV6]:PORT` or `unix:/path`.

use std::{fmt, path::PathBuf, str::FromStr};

/// The address of a socket. A host's name is not resolved here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Tcp {
        /// A name or an IP address, without brackets.
        host: String,
        /// The port; to listen, 0 takes any that is free.
        port: u16,
    },
    /// A Unix socket, by the absolute path of its file.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fail = || AddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() && path.file_name().is_some() {
                Ok(Self::Unix(path))
            } else {
                Err(fail())
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(fail)?;
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(fail());
        }
        let port = port.parse().map_err(|_| fail())?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let fits = match bracketed {
            Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && !host.contains(|c: char| c == ':' || c == '/' || c.is_whitespace())
            }
        };
        if !fits {
            return Err(fail());
        }
        Ok(Self::Tcp {
            host: bracketed.unwrap_or(host).to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A text is not an address. What looks like a connection string is not shown: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError(String);

impl std::error::Error for AddressError {}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EXPECTED: &str = "expected HOST:PORT, [IPV6]:PORT or unix:/absolute/path";
        if self.0.contains(['@', '=', '?']) {
            write!(f, "{EXPECTED}, and no connection string")
        } else {
            write!(f, "`{}` is not an address: {EXPECTED}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_not_repeated() {
        for text in [
            "postgres://u:secret@h/d",
            "host=h password=secret",
            "postgres://h?password=secret",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.ends_with("and no connection string"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn reads_and_writes() {
        for text in [
            "127.0.0.1:6432",
            "db.example.org:5432",
            "[::1]:0",
            "unix:/run/pgidle/.s.PGSQL.6432",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let tcp = Address::Tcp {
            host: "::1".to_owned(),
            port: 6432,
        };
        assert_eq!("[::1]:6432".parse(), Ok(tcp));
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            "localhost",
            ":5432",
            "localhost:",
            "localhost:65536",
            "localhost:+1",
            "::1:5432",
            "[::1]",
            "[x]:1",
            "unix:",
            "unix:run/socket",
            "unix:/",
            "http://a:80",
            "a b:1",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{text}` is not an address")),
                "{error}"
            );
        }
    }
}
