//! Why a connection does not become a session, and the FATAL error that its client gets.

use super::connect::ConnectError;
use crate::wire::{StartupError, originate::Diagnostic};

/// Why a connection does not become a session.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The first packet cannot be read.
    BadStartup(StartupError),
    /// TLS begins without a request, and this address does not offer it.
    TlsNotOffered,
    /// A request for encryption came through TLS.
    AlreadyEncrypted,
    /// Bytes came after a request for encryption, before its answer.
    DataAfterTlsRequest,
    /// The settings demand TLS.
    TlsRequired,
    /// The settings demand a client certificate of the role.
    CertificateMismatch {
        /// The common name of the subject, empty where there is none.
        name: String,
        /// The role that was asked for.
        user: String,
    },
    /// As many sessions as there can be are open.
    TooManySessions,
    /// As many connections as there can be lead to the console.
    TooManyAtConsole,
    /// No server gave a session: why, for each address that was tried.
    Unreachable(Vec<ConnectError>),
}

impl Refusal {
    /// What refusals have in common that are logged together.
    pub(super) const fn cause(&self) -> &'static str {
        match self {
            Self::BadStartup(_) => "startup",
            Self::TlsNotOffered | Self::AlreadyEncrypted | Self::DataAfterTlsRequest => {
                "encryption"
            }
            Self::TlsRequired => "tls_required",
            Self::CertificateMismatch { .. } => "certificate",
            Self::TooManySessions | Self::TooManyAtConsole => "too_many_sessions",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

impl From<Refusal> for Diagnostic {
    /// The SQLSTATEs are those of PostgreSQL for the same cause: 08P01 `protocol_violation`, 08006 `connection_failure`,
    /// 28000 `invalid_authorization_specification`, 53300 `too_many_connections`.
    fn from(refusal: Refusal) -> Self {
        let diagnostic = |sqlstate, message: &str| Self {
            sqlstate,
            message: format!("pgidle: {message}"),
            detail: String::new(),
            hint: String::new(),
        };
        match refusal {
            Refusal::BadStartup(error) => diagnostic("08P01", &error.to_string()),
            Refusal::TlsNotOffered => diagnostic("08P01", "TLS is not offered here"),
            Refusal::AlreadyEncrypted => {
                diagnostic("08P01", "a request for encryption inside of TLS")
            }
            Refusal::DataAfterTlsRequest => Self {
                detail: "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack."
                    .to_owned(),
                ..diagnostic(
                    "08P01",
                    "received unencrypted data after a request for encryption",
                )
            },
            Refusal::TlsRequired => Self {
                hint: "Set sslmode=require, or stronger, in the client.".to_owned(),
                ..diagnostic("28000", "connections without TLS are refused")
            },
            Refusal::CertificateMismatch { name, user } => Self {
                detail: format!(
                    "The common name of its subject is \"{name}\", the role is \"{user}\"."
                ),
                ..diagnostic("28000", "the client certificate is not that of the role")
            },
            Refusal::TooManySessions => diagnostic("53300", "sorry, too many sessions already"),
            Refusal::TooManyAtConsole => {
                diagnostic("53300", "sorry, too many connections to the console already")
            }
            Refusal::Unreachable(errors) => {
                let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
                diagnostic("08006", &errors.join("; "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use expect_test::expect;

    use super::*;

    #[test]
    fn every_refusal_says_why() {
        let unreachable = |address| ConnectError::new(&address, io::ErrorKind::TimedOut.into());
        let all = [
            Refusal::BadStartup(StartupError::Cancel),
            Refusal::TlsNotOffered,
            Refusal::AlreadyEncrypted,
            Refusal::DataAfterTlsRequest,
            Refusal::TlsRequired,
            Refusal::CertificateMismatch {
                name: "alice".to_owned(),
                user: "bob".to_owned(),
            },
            Refusal::TooManySessions,
            Refusal::Unreachable(vec![unreachable("db1:5432"), unreachable("db2:5432")]),
        ];
        let said: String = all
            .into_iter()
            .map(Diagnostic::from)
            .map(|diagnostic| {
                let Diagnostic {
                    sqlstate,
                    message,
                    detail,
                    hint,
                } = diagnostic;
                let more = [detail, hint].map(|text| match text.is_empty() {
                    true => text,
                    false => format!("\n    {text}"),
                });
                format!("{sqlstate} {message}{}\n", more.concat())
            })
            .collect();
        expect![[r#"
            08P01 pgidle: invalid length of a cancel request
            08P01 pgidle: TLS is not offered here
            08P01 pgidle: a request for encryption inside of TLS
            08P01 pgidle: received unencrypted data after a request for encryption
                This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.
            28000 pgidle: connections without TLS are refused
                Set sslmode=require, or stronger, in the client.
            28000 pgidle: the client certificate is not that of the role
                The common name of its subject is "alice", the role is "bob".
            53300 pgidle: sorry, too many sessions already
            08006 pgidle: could not connect to the PostgreSQL server at db1:5432: timed out; could not connect to the PostgreSQL server at db2:5432: timed out
        "#]].assert_eq(&said);
    }
}
