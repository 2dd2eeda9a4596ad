//! How pgidle itself connects to the server: libpq's connection strings, with libpq's words.
//!
//! tokio-postgres reads the string; what it does not know is taken out before, or refused with the words that are known.

use std::{error::Error as _, fmt};

use tokio_postgres::config::Host;

use super::{
    section::hint,
    tls::{SslMode, UpstreamTls},
};

/// A connection string. Its `Debug` does not show the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dsn {
    /// Hosts, role, database and all else but TLS.
    pub postgres: tokio_postgres::Config,
    /// TLS; without `sslmode` it is `prefer`, as with libpq.
    pub tls: UpstreamTls,
}

/// The role and where it connects, without what is secret.
impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (postgres, mut separator) = (&self.postgres, "");
        if let Some(user) = postgres.get_user() {
            write!(f, "{user}@")?;
        }
        let ports = postgres.get_ports();
        for (index, host) in postgres.get_hosts().iter().enumerate() {
            f.write_str(separator)?;
            match host {
                Host::Tcp(name) => f.write_str(name)?,
                Host::Unix(path) => path.display().fmt(f)?,
            }
            // One port may stand for all hosts.
            if let Some(port) = ports.get(index).or_else(|| ports.first()) {
                write!(f, ":{port}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl Dsn {
    /// Whether the other one was written in the same way, whatever was read from the files that it names.
    pub(super) fn says_the_same_as(&self, other: &Self) -> bool {
        let written = |tls: &UpstreamTls| UpstreamTls {
            connector: None,
            ..tls.clone()
        };
        self.postgres == other.postgres && written(&self.tls) == written(&other.tls)
    }
}

/// Reads `host=… user=…` or `postgresql://…`.
///
/// # Errors
/// What is wrong with it, without its values.
pub fn parse_dsn(text: &str) -> Result<Box<Dsn>, String> {
    let is_url = is_url(text);
    let (front, parameters) = divide(text);
    let mut tls = UpstreamTls {
        sslmode: SslMode::Prefer,
        ..UpstreamTls::default()
    };
    let mut rest = Vec::new();
    for parameter in parameters {
        let Some((key, written)) = parameter.split_once('=') else {
            rest.push(parameter.to_owned());
            continue;
        };
        let key = key.trim();
        let value = plain(written.trim(), is_url);
        let wrong = |expected: &str| format!("{key}: {expected}");
        match key {
            "sslmode" => tls.sslmode = value.parse().map_err(wrong)?,
            "sslnegotiation" => tls.negotiation = value.parse().map_err(wrong)?,
            "sslrootcert" => tls.root_cert = Some(value.into()),
            "sslcert" => tls.cert = Some(value.into()),
            "sslkey" => tls.key = Some(value.into()),
            // Nothing here encrypts by GSSAPI, which both of these allow.
            "gssencmode" if matches!(&*value, "disable" | "prefer") => {}
            "gssencmode" => return Err(wrong(NO_GSS)),
            "target_session_attrs" if !TARGETS.contains(&&*value) => return Err(wrong(NO_TARGET)),
            "keepalives_count" => rest.push(format!("keepalives_retries={written}")),
            _ if KNOWN.contains(&key) => rest.push(parameter.to_owned()),
            _ if OF_LIBPQ.contains(&key) => {
                let known = KNOWN.join(", ");
                return Err(format!(
                    "`{key}` is not known here; expected one of {known}"
                ));
            }
            // A password that is not quoted or encoded may have come apart into what looks like options.
            _ => return Err(format!("unknown option; {}", hint(key, KNOWN))),
        }
    }
    let separator = if is_url { "&" } else { " " };
    let rest = front + &rest.join(separator);
    let postgres: tokio_postgres::Config = rest.parse().map_err(|error: tokio_postgres::Error| {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        format!("expected a connection string such as \"host=/run/postgresql user=pgidle dbname=postgres\"{cause}")
    })?;
    if postgres.get_hosts().is_empty() {
        return Err("the connection string names no host".to_owned());
    }
    tls.check()
        .map_err(|(key, problem)| format!("{key}: {problem}"))?;
    Ok(Box::new(Dsn { postgres, tls }))
}

/// libpq's words that mean something here.
const KNOWN: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "target_session_attrs",
    "load_balance_hosts",
    "channel_binding",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "gssencmode",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

/// libpq's other words (`PQconninfoOptions` in `src/interfaces/libpq/fe-connect.c` of PostgreSQL 18).
const OF_LIBPQ: &[&str] = &[
    "service",
    "servicefile",
    "passfile",
    "client_encoding",
    "fallback_application_name",
    "replication",
    "require_auth",
    "requirepeer",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "sslcompression",
    "sslcertmode",
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "sslsni",
    "sslkeylogfile",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "min_protocol_version",
    "max_protocol_version",
    "scram_client_key",
    "scram_server_key",
    "oauth_issuer",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_scope",
];

const NO_GSS: &str = "GSSAPI encryption is not known here: expected \"disable\" or \"prefer\"";

/// What tokio-postgres asks of a server.
const TARGETS: [&str; 3] = ["any", "read-write", "read-only"];
const NO_TARGET: &str = "expected \"any\", \"read-write\" or \"read-only\" here; \"read-write\" finds a primary, and [upstream] target_session_attrs knows libpq's other words";

/// The front of a URL, up to its parameters, and each parameter as it is written.
fn divide(text: &str) -> (String, Vec<&str>) {
    match text.split_once('?') {
        Some((front, query)) if is_url(text) => {
            let parameters: Vec<_> = query.split('&').filter(|p| !p.is_empty()).collect();
            (format!("{front}?"), parameters)
        }
        None if is_url(text) => (text.to_owned(), Vec::new()),
        _ => (String::new(), settings(text)),
    }
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
    fn the_password_is_not_shown() {
        for (text, expected) in [
            ("host=db user=u password=secret port=7", "u@db:7"),
            ("host=a,b port=7,8 dbname=d", "a:7,b:8"),
            ("host=a,/run/b user=u", "u@a,/run/b"),
        ] {
            assert_eq!(parse_dsn(text).unwrap().to_string(), expected);
        }
    }

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
        let words = "host=h gssencmode=prefer keepalives_count=3 target_session_attrs=read-write";
        for text in [
            words,
            "postgresql://h?",
            &format!("postgresql://h?{}", words.replace(' ', "&")),
        ] {
            assert!(parse_dsn(text).is_ok(), "{text}");
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
            ("host=h password=my secret port=1", "unknown option"),
            ("postgresql://u:my?secret=1@h", "unknown option"),
            ("host=h prot=secret", "did you mean `port`?"),
            (
                "host=h service=secret",
                "`service` is not known here; expected one of host, hostaddr",
            ),
            (
                "postgresql://h/d?passfile=secret&sslmode=require",
                "`passfile` is not known here",
            ),
            (
                "host=h gssencmode=require",
                "gssencmode: GSSAPI encryption is not known here",
            ),
            (
                "host=h target_session_attrs=primary",
                "expected \"any\", \"read-write\" or \"read-only\" here",
            ),
            (
                "host=h sslrootcert=system sslmode=verify-full",
                "\"system\" is not known here",
            ),
            ("user='secret", "expected a connection string"),
        ] {
            let error = parse_dsn(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
