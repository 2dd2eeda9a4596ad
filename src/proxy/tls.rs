//! The handshakes of TLS with clients, and what their certificates say.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio_rustls::{TlsAcceptor, TlsStream, rustls::pki_types::CertificateDer};

use super::{refusal::Refusal, stream::Stream};
use crate::config::{ALPN, Acceptor, SslMode, TlsSettings};

/// The first byte of a TLS record that carries a handshake.
const HANDSHAKE: u8 = 0x16;

/// The object identifier of a common name, 2.5.4.3, in DER.
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];

/// Begins TLS with a client who does not ask first (`sslnegotiation=direct`).
pub(super) async fn accept_direct(stream: Stream, settings: &TlsSettings) -> io::Result<Stream> {
    let (Stream::Tcp(tcp), Some(acceptor)) = (&stream, &settings.acceptor) else {
        return Ok(stream);
    };
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 || first != [HANDSHAKE] {
        return Ok(stream);
    }
    let stream = accept(stream, acceptor).await?;
    // As PostgreSQL: without it, what was meant for another protocol could be taken for ours.
    match &stream {
        Stream::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(ALPN) => Ok(stream),
        Stream::Tcp(_) | Stream::Unix(_) | Stream::Tls(_) => {
            Err(io::Error::other("direct TLS without ALPN"))
        }
    }
}

/// Answers a client who asks for TLS.
///
/// # Errors
/// The connection fails, or the handshake does.
pub(super) async fn answer_request(
    mut stream: Stream,
    settings: &TlsSettings,
) -> io::Result<Stream> {
    match (&stream, &settings.acceptor) {
        (Stream::Tcp(_), Some(acceptor)) => {
            stream.write_all(b"S").await?;
            accept(stream, acceptor).await
        }
        _ => {
            stream.write_all(b"N").await?;
            Ok(stream)
        }
    }
}

/// Says why a request for encryption cannot be answered, if so; `after` is what came after it.
pub(super) fn refuses_request(stream: &Stream, after: &[u8]) -> Option<Refusal> {
    if stream.is_tls() {
        return Some(Refusal::AlreadyEncrypted);
    }
    // An attacker on the way may have put it there (CVE-2021-23214).
    (!after.is_empty()).then_some(Refusal::DataAfterTlsRequest)
}

/// Says why a client may not open a session over this connection, if so.
pub(super) fn refuses_session(
    stream: &Stream,
    settings: &TlsSettings,
    user: &str,
) -> Option<Refusal> {
    // As with PostgreSQL, TLS does not concern Unix sockets.
    if settings.sslmode < SslMode::Require || matches!(stream, Stream::Unix(_)) {
        return None;
    }
    if !stream.is_tls() {
        return Some(Refusal::TlsRequired);
    }
    let named = stream.peer_certificate().and_then(common_name);
    if settings.sslmode == SslMode::VerifyFull && named.as_deref() != Some(user) {
        return Some(Refusal::CertificateMismatch {
            name: named.unwrap_or_default(),
            user: user.to_owned(),
        });
    }
    None
}

async fn accept(stream: Stream, acceptor: &Acceptor) -> io::Result<Stream> {
    let Stream::Tcp(tcp) = stream else {
        return Ok(stream);
    };
    let tls = TlsAcceptor::from(acceptor.config.clone())
        .accept(tcp)
        .await?;
    Ok(Stream::Tls(Box::new(TlsStream::Server(tls))))
}

/// The common name in the subject of a certificate that was verified.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut subject = certificate.subject();
    while let Some((set, rest)) = element(subject) {
        subject = rest;
        let (attribute, _) = element(set)?;
        if let Some(value) = attribute.strip_prefix(COMMON_NAME) {
            return String::from_utf8(element(value)?.0.to_vec()).ok();
        }
    }
    None
}

/// The content of the first DER element, and what comes after it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_tag, short], rest) = der.split_first_chunk()?;
    if short < 0x80 {
        return rest.split_at_checked(short.into());
    }
    let (length, rest) = rest.split_at_checked((short & 0x7f).into())?;
    let length = length.iter().try_fold(0_usize, |sum, &byte| {
        sum.checked_mul(256)?.checked_add(byte.into())
    })?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    #[test]
    fn the_common_name_is_found_wherever_it_stands() {
        let named = |names: &[(DnType, &str)]| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            for (kind, value) in names {
                params.distinguished_name.push(kind.clone(), *value);
            }
            let key = KeyPair::generate().unwrap();
            common_name(params.self_signed(&key).unwrap().der())
        };
        let long = "x".repeat(300);
        let organisation = (DnType::OrganizationName, long.as_str());
        for name in ["app_user", "Zoë", &long] {
            let found = named(&[organisation.clone(), (DnType::CommonName, name)]);
            assert_eq!(found.as_deref(), Some(name));
        }
        assert_eq!(named(&[organisation]), None);
        assert_eq!(common_name(&CertificateDer::from(vec![0x30, 0x84])), None);
    }
}
