//! How pgidle itself connects to the server: libpq's connection strings, with libpq's words for TLS.
//!
//! tokio-postgres reads the string; what it does not know, the certificates and the stricter modes, is taken out before.

use std::error::Error as _;

use super::tls::{SslMode, UpstreamTls};

/// A connection string. Its `Debug` does not show the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dsn {
    /// Hosts, role, database and all else but TLS.
    pub postgres: tokio_postgres::Config,
    /// TLS; without `sslmode` it is `prefer`, as with libpq.
    pub tls: UpstreamTls,
}

/// Reads `host=… user=…` or `postgresql://…`.
///
/// # Errors
/// What is wrong with it, without its values.
pub fn parse_dsn(text: &str) -> Result<Box<Dsn>, String> {
    let (rest, of_tls) = divide(text);
    let postgres: tokio_postgres::Config = rest.parse().map_err(|error: tokio_postgres::Error| {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        format!("expected a connection string such as \"host=/run/postgresql user=pgidle dbname=postgres\"{cause}")
    })?;
    if postgres.get_hosts().is_empty() {
        return Err("the connection string names no host".to_owned());
    }
    let mut tls = UpstreamTls {
        sslmode: SslMode::Prefer,
        ..UpstreamTls::default()
    };
    let is_url = is_url(text);
    for (key, value) in of_tls {
        let value = plain(value, is_url);
        let wrong = |expected: &str| format!("{key}: {expected}");
        match key {
            "sslmode" => tls.sslmode = value.parse().map_err(wrong)?,
            "sslnegotiation" => tls.negotiation = value.parse().map_err(wrong)?,
            "sslrootcert" => tls.root_cert = Some(value.into()),
            "sslcert" => tls.cert = Some(value.into()),
            _ => tls.key = Some(value.into()),
        }
    }
    tls.check()
        .map_err(|(key, problem)| format!("{key}: {problem}"))?;
    Ok(Box::new(Dsn { postgres, tls }))
}

const TLS_KEYS: [&str; 5] = [
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

/// The string without the keys of TLS, and these with their values as they are written.
fn divide(text: &str) -> (String, Vec<(&str, &str)>) {
    let (front, pairs, separator) = match text.split_once('?') {
        Some((front, query)) if is_url(text) => {
            (format!("{front}?"), query.split('&').collect(), "&")
        }
        None if is_url(text) => return (text.to_owned(), Vec::new()),
        _ => (String::new(), settings(text), " "),
    };
    let (mut rest, mut of_tls) = (Vec::new(), Vec::new());
    for pair in pairs {
        match pair.split_once('=') {
            Some((key, value)) if TLS_KEYS.contains(&key.trim()) => {
                of_tls.push((key.trim(), value.trim()));
            }
            _ => rest.push(pair),
        }
    }
    let front = front.strip_suffix(if rest.is_empty() { "?" } else { "" });
    (
        front.unwrap_or_default().to_owned() + &rest.join(separator),
        of_tls,
    )
}

fn is_url(text: &str) -> bool {
    text.starts_with("postgresql://") || text.starts_with("postgres://")
}

/// Each `key = value` of a connection string that is no URL (`conninfo_parse` in `src/interfaces/libpq/fe-connect.c`).
fn settings(text: &str) -> Vec<&str> {
    let mut settings = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let value = rest.find('=').map_or(rest.len(), |at| at + 1);
        let (key, behind) = rest.split_at(value);
        let spaces = behind.len() - behind.trim_start().len();
        let len = key.len() + spaces + value_len(&behind[spaces..]);
        settings.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    settings
}

/// The length of the value at the front: quoted, or up to a space.
fn value_len(text: &str) -> usize {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return at + 1,
            c if c.is_whitespace() && !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

/// A value without quotes and escapes, as tokio-postgres reads it.
fn plain(value: &str, in_url: bool) -> String {
    let front = if in_url { "postgresql://u@h?" } else { "" };
    let alone = format!("{front}application_name={value}").parse::<tokio_postgres::Config>();
    let plain = alone.map(|alone| alone.get_application_name().map(str::to_owned));
    plain.ok().flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Negotiation;

    #[test]
    fn tls_is_read_from_both_forms() {
        for text in [
            "host=db user=u password='a b=\\'c' sslmode=verify-full sslrootcert = '/my ca/root.crt' port=7",
            "postgresql://u:a%20b%3D%27c@db:7?sslmode=verify-full&sslrootcert=/my%20ca/root.crt",
            "sslmode=verify-full sslrootcert=/my\\ ca/root.crt host=db user=u password=a\\ b=\\'c port=7",
        ] {
            let dsn = parse_dsn(text).unwrap();
            assert_eq!(dsn.tls.sslmode, SslMode::VerifyFull, "{text}");
            let root = dsn.tls.root_cert.as_ref().and_then(|path| path.to_str());
            assert_eq!(root, Some("/my ca/root.crt"), "{text}");
            assert_eq!(dsn.postgres.get_password(), Some(&b"a b='c"[..]), "{text}");
            assert_eq!(dsn.postgres.get_user(), Some("u"), "{text}");
            assert_eq!(dsn.postgres.get_ports(), [7], "{text}");
        }
    }

    #[test]
    fn without_words_about_tls_it_is_used_where_it_is_offered() {
        for text in [
            "host=/run/postgresql",
            "postgresql://db",
            "postgres://db/x?connect_timeout=3",
        ] {
            assert_eq!(
                parse_dsn(text).unwrap().tls.sslmode,
                SslMode::Prefer,
                "{text}"
            );
        }
        let direct = parse_dsn("host=h sslmode=require sslnegotiation=direct").unwrap();
        assert_eq!(direct.tls.negotiation, Negotiation::Direct);
    }

    #[test]
    fn what_is_wrong_is_said_without_values() {
        for (text, expected) in [
            ("host=h sslmode=secret", "sslmode: expected \"disable\""),
            ("host=h sslmode=verify-ca", "sslrootcert: missing"),
            ("postgresql://h?sslcert=/secret", "sslkey: missing"),
            ("host=h secret", "expected a connection string"),
            ("host=h secret=1", "unknown option"),
            ("user='secret", "expected a connection string"),
        ] {
            let error = parse_dsn(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(
                text.contains("secret=") || !error.contains("secret"),
                "{error}"
            );
        }
    }
}
