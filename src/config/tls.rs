//! TLS settings of both legs, and the certificates that they name: read with the settings, so that a reload reads them
//! again and a file that is wrong is refused before anybody meets it.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{ParsedCertificate, WebPkiClientVerifier},
};

use super::{
    error::Fault,
    section::{Section, Table, parsed, path},
};

/// The protocol name that clients and servers of direct TLS agree on (`PG_ALPN_PROTOCOL` in
/// `src/include/libpq/pqcomm.h`).
pub const ALPN: &[u8] = b"postgresql";

/// How much a leg insists on TLS, from the least to the most, in libpq's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// No TLS.
    #[default]
    Disable,
    /// TLS where the other side insists.
    Allow,
    /// TLS where the other side can.
    Prefer,
    /// TLS, or no session.
    Require,
    /// And the other side has a certificate of an authority that is trusted.
    VerifyCa,
    /// And the certificate names the other side.
    VerifyFull,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// It is not.
    No,
    /// It is where the other side offers it.
    IfOffered,
    /// It is, or there is no connection.
    Yes,
}

impl SslMode {
    /// The ways in which a session is opened, one after the other while the server refuses, as libpq does
    /// (`PQconnectPoll` in `src/interfaces/libpq/fe-connect.c`).
    pub const fn tls_attempts(self) -> &'static [Encryption] {
        match self {
            Self::Disable => &[Encryption::No],
            Self::Allow => &[Encryption::No, Encryption::Yes],
            Self::Prefer => &[Encryption::IfOffered, Encryption::No],
            Self::Require | Self::VerifyCa | Self::VerifyFull => &[Encryption::Yes],
        }
    }
}

impl SslMode {
    const ALL: [Self; 6] = [
        Self::Disable,
        Self::Allow,
        Self::Prefer,
        Self::Require,
        Self::VerifyCa,
        Self::VerifyFull,
    ];

    /// libpq's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl FromStr for SslMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut modes = Self::ALL.into_iter();
        modes.find(|mode| mode.name() == text).ok_or("expected \"disable\", \"allow\", \"prefer\", \"require\", \"verify-ca\" or \"verify-full\"")
    }
}

/// How TLS with the server begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Negotiation {
    /// By an SSLRequest.
    #[default]
    Postgres,
    /// At once: PostgreSQL 17 and later.
    Direct,
}

impl Negotiation {
    /// libpq's word for it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Direct => "direct",
        }
    }
}

impl FromStr for Negotiation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "postgres" => Ok(Self::Postgres),
            "direct" => Ok(Self::Direct),
            _ => Err("expected \"postgres\" or \"direct\""),
        }
    }
}

/// `[tls]`: the client's leg.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// What clients who come by TCP have to bring.
    pub sslmode: SslMode,
    /// The certificate, and those between it and its authority.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The authorities of clients' certificates.
    pub ca: Option<PathBuf>,
    /// What the files hold; `None` when TLS is off, and before they were read.
    pub acceptor: Option<Acceptor>,
}

/// The TLS part of `[upstream]`: the server's leg.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// What the server has to bring.
    pub sslmode: SslMode,
    /// How TLS begins.
    pub negotiation: Negotiation,
    /// The authorities of the server's certificate; where there are any, it is checked in every mode, as libpq does.
    pub root_cert: Option<PathBuf>,
    /// pgidle's own certificate, for a server that asks.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// What the files hold; `None` when TLS is off, and before they were read.
    pub connector: Option<Connector>,
}

/// What is needed to answer a client's handshake. Two are equal when they were loaded at once.
#[derive(Clone)]
pub struct Acceptor {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// The certificate that clients see, in DER.
    pub certificate: CertificateDer<'static>,
}

/// What is needed for a handshake with the server. Two are equal when they were loaded at once.
#[derive(Clone)]
pub struct Connector {
    /// For rustls.
    pub config: Arc<ClientConfig>,
}

/// Which key of a section is at fault, and why.
pub(super) type TlsFault = (&'static str, String);

pub(super) const TABLE: Table = Table {
    name: "tls",
    keys: &["sslmode", "cert", "key", "ca"],
};

impl TlsSettings {
    /// Reads the section over these settings.
    pub(super) fn read(&mut self, section: &Section<'_>) -> Result<(), Fault> {
        section.set("sslmode", &mut self.sslmode, parsed)?;
        section.set("cert", &mut self.cert, path)?;
        section.set("key", &mut self.key, path)?;
        section.set("ca", &mut self.ca, path)?;
        self.check()
            .map_err(|(key, problem)| section.fault_at(key, problem))
    }

    /// Says which key is missing, or of no use.
    pub(super) fn check(&self) -> Result<(), TlsFault> {
        let missing = |key| {
            let problem = "missing; expected the path of a PEM file, unless sslmode is \"disable\"";
            Err((key, problem.to_owned()))
        };
        match self {
            Self {
                sslmode: SslMode::Disable,
                ..
            } => Ok(()),
            Self { cert: None, .. } => missing("cert"),
            Self { key: None, .. } => missing("key"),
            Self {
                sslmode: SslMode::VerifyCa | SslMode::VerifyFull,
                ca: None,
                ..
            } => Err((
                "ca",
                "missing; expected the path of a PEM file with the authorities of clients' certificates".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Reads the files.
    pub(super) fn load(&mut self) -> Result<(), TlsFault> {
        self.acceptor = None;
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            return Ok(());
        };
        if self.sslmode == SslMode::Disable {
            return Ok(());
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| ("sslmode", error.to_string()))?;
        let builder = match &self.ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = roots("ca", ca)?.0;
                let mut verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                if self.sslmode < SslMode::VerifyCa {
                    verifier = verifier.allow_unauthenticated();
                }
                let verifier = verifier
                    .build()
                    .map_err(|error| ("ca", in_file(ca, &error)))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates("cert", cert)?;
        let certificate = first("cert", cert, &chain)?;
        let mut config = builder
            .with_single_cert(chain, private_key("key", key)?)
            .map_err(|error| ("key", in_file(key, &error)))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        self.acceptor = Some(Acceptor {
            config: Arc::new(config),
            certificate,
        });
        Ok(())
    }
}

impl UpstreamTls {
    /// Says which key is missing, or does not go with another.
    pub(super) fn check(&self) -> Result<(), TlsFault> {
        if self.root_cert.as_deref() == Some(Path::new("system")) {
            let problem = "\"system\" is not known here: expected the path of a PEM file, such as /etc/ssl/certs/ca-certificates.crt";
            return Err(("sslrootcert", problem.to_owned()));
        }
        if self.sslmode >= SslMode::VerifyCa && self.root_cert.is_none() {
            let problem = "missing; expected the path of a PEM file with the authority of the server's certificate";
            return Err(("sslrootcert", problem.to_owned()));
        }
        if self.negotiation == Negotiation::Direct && self.sslmode < SslMode::Require {
            let problem = "\"direct\" cannot fall back: expected sslmode \"require\" or stronger";
            return Err(("sslnegotiation", problem.to_owned()));
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => Err((
                "sslkey",
                "missing; sslcert needs its private key".to_owned(),
            )),
            (None, Some(_)) => Err((
                "sslcert",
                "missing; sslkey needs its certificate".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Reads the files.
    pub(super) fn load(&mut self) -> Result<(), TlsFault> {
        self.connector = None;
        if self.sslmode == SslMode::Disable {
            return Ok(());
        }
        let provider = Arc::new(ring::default_provider());
        let authority = match &self.root_cert {
            None => None,
            Some(path) => {
                let (store, trusted) = roots("sslrootcert", path)?;
                let chain = WebPkiServerVerifier::builder_with_provider(
                    store.into(),
                    Arc::clone(&provider),
                )
                .build()
                .map_err(|error| ("sslrootcert", in_file(path, &error)))?;
                Some(Authority { chain, trusted })
            }
        };
        let verifier = Verifier {
            provider: Arc::clone(&provider),
            authority,
            by_name: self.sslmode == SslMode::VerifyFull,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ("sslmode", error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates("sslcert", cert)?;
                first("sslcert", cert, &chain)?;
                builder
                    .with_client_auth_cert(chain, private_key("sslkey", key)?)
                    .map_err(|error| ("sslkey", in_file(key, &error)))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        self.connector = Some(Connector {
            config: Arc::new(config),
        });
        Ok(())
    }
}

impl PartialEq for Acceptor {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }
}

impl Eq for Acceptor {}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }
}

impl Eq for Connector {}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

/// Checks the server's certificate as libpq does. That the server has the key to it is checked in every mode: what a
/// client binds its authentication to would mean nothing else.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    authority: Option<Authority>,
    by_name: bool,
}

/// Who vouches for the server.
#[derive(Debug)]
struct Authority {
    chain: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else {
            return Ok(ServerCertVerified::assertion());
        };
        // A certificate that signed itself is its own authority, which webpki does not grant.
        if authority.trusted.contains(certificate) {
            if self.by_name {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let verified =
            authority
                .chain
                .verify_server_cert(certificate, intermediates, name, ocsp, now);
        match verified {
            // The name is the last that is checked.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.by_name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| (key, in_file(path, &error)))
}

fn first(
    key: &'static str,
    path: &Path,
    chain: &[CertificateDer<'static>],
) -> Result<CertificateDer<'static>, TlsFault> {
    let first = chain.first().cloned();
    first.ok_or_else(|| (key, in_file(path, &"holds no certificate in PEM format")))
}

fn private_key(key: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, TlsFault> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| (key, in_file(path, &error)))
}

fn roots(
    key: &'static str,
    path: &Path,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsFault> {
    let trusted = certificates(key, path)?;
    first(key, path, &trusted)?;
    let mut store = RootCertStore::empty();
    for certificate in &trusted {
        store
            .add(certificate.clone())
            .map_err(|error| (key, in_file(path, &error)))?;
    }
    Ok((store, trusted))
}

fn in_file(path: &Path, error: &dyn fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
