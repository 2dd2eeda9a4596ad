//! Certificates for both legs, made for each server: an authority, what it has signed, and one that signed itself.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::server::Server;

/// A folder of PEM files: `NAME.crt` and `NAME.key`.
pub(crate) struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes `ca`; `server`, `pgidle` and `client` (whose common name is `cert_user`), which it signed; and `other`.
    pub(crate) fn make(data_dir: &Path) -> Self {
        // Beside the data, because a base backup reads everything in there.
        let made = Self {
            folder: data_dir.with_file_name("tls"),
        };
        fs::create_dir(&made.folder).unwrap();
        let (mut authority, key) = (params("pgidle test"), KeyPair::generate().unwrap());
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        made.write("ca", &authority.self_signed(&key).unwrap(), &key);
        let issuer = Issuer::new(authority, key);
        for (name, common_name) in [
            ("server", "localhost"),
            ("pgidle", "localhost"),
            ("client", "cert_user"),
        ] {
            let key = KeyPair::generate().unwrap();
            let signed = params(common_name).signed_by(&key, &issuer).unwrap();
            made.write(name, &signed, &key);
        }
        let (mut other, key) = (params("other"), KeyPair::generate().unwrap());
        other.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        made.write("other", &other.self_signed(&key).unwrap(), &key);
        // The server reads its own key, and takes none that belongs to somebody else.
        let owner = fs::metadata(data_dir).unwrap();
        for path in [made.folder.clone(), made.file("server.key")] {
            chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        made
    }

    /// The path of a file.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The path of a file, as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, certificate: &Certificate, key: &KeyPair) {
        fs::write(self.file(&format!("{name}.crt")), certificate.pem()).unwrap();
        let path = self.file(&format!("{name}.key"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// A certificate for `localhost`, and for no address.
fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

/// `[tls]` with one of the server's pairs of certificate and key.
pub(crate) fn offering(server: &Server, pair: &str, sslmode: &str) -> String {
    let [cert, key, ca] = [&format!("{pair}.crt"), &format!("{pair}.key"), "ca.crt"]
        .map(|name: &str| server.pem(name));
    let ca = if sslmode.starts_with("verify") {
        format!("ca = '{ca}'\n")
    } else {
        String::new()
    };
    format!("[tls]\nsslmode = '{sslmode}'\ncert = '{cert}'\nkey = '{key}'\n{ca}")
}
