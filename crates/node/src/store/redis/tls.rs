//! By which certificates Redis is spoken to: files in PEM, read once.

use std::{fs, path::Path};

use redis::{ClientTlsConfig, TlsCertificates};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// Certificates and a key, in PEM.
#[derive(Clone)]
pub struct Tls {
    /// The authorities that vouch for the server; `None`: those that the system trusts.
    ca: Option<Vec<u8>>,
    /// The node's certificate and its key, if the server asks for one.
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Reads the authorities that vouch for the server, and the node's certificate and its key.
    ///
    /// # Errors
    ///
    /// A sentence on the setting and the file that is wrong.
    pub fn read(ca: Option<&Path>, client: Option<(&Path, &Path)>) -> Result<Self, String> {
        let ca = ca.map(|path| certificates("ca", path)).transpose()?;
        let client = match client {
            Some((cert, key)) => Some((certificates("cert", cert)?, read("key", key)?)),
            None => None,
        };
        Ok(Self { ca, client })
    }

    pub(super) fn into_certificates(self) -> TlsCertificates {
        let client_tls =
            self.client.map(|(cert, key)| ClientTlsConfig { client_cert: cert, client_key: key });
        TlsCertificates { client_tls, root_cert: self.ca }
    }
}

fn read(field: &str, path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path)
        .map_err(|error| format!("cannot read store.{field} `{}`: {error}", path.display()))
}

/// Of a file without a certificate the client library would make an authority that vouches for nobody.
fn certificates(field: &str, path: &Path) -> Result<Vec<u8>, String> {
    let bytes = read(field, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    if found.is_ok_and(|found| !found.is_empty()) {
        return Ok(bytes);
    }
    Err(format!("store.{field} `{}` is not one or more certificates in PEM", path.display()))
}
