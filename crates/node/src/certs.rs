//! Certificates of the cluster: making them, and reading a node's identity from one.
//!
//! A cluster has one certificate authority. Each node's certificate carries two names: a DNS name
//! that is the same on all nodes, so that TLS has a server name to check, and the URI
//! `tidegate://region/node`, which says who the node is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration as Span,
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tidegate_core::ids::NodeId;
use time::{Duration, OffsetDateTime};
use x509_parser::{extensions::GeneralName, prelude::FromDer, time::ASN1Time};

/// The DNS name that every node's certificate carries.
pub const SERVER_NAME: &str = "node.tidegate.internal";

/// The file of the authority's certificate.
pub const CA_CERT_FILE: &str = "ca.pem";
/// The file of the authority's private key.
pub const CA_KEY_FILE: &str = "ca.key";
/// The file of a node's certificate.
pub const NODE_CERT_FILE: &str = "node.pem";
/// The file of a node's private key.
pub const NODE_KEY_FILE: &str = "node.key";

/// How the URI of an identity begins.
const SCHEME: &str = "tidegate://";
/// How long an authority is valid.
const CA_DAYS: i64 = 3650;
/// How long a node's certificate is valid.
const NODE_DAYS: i64 = 365;
/// How far validity reaches back, for nodes whose clock is behind.
const LEEWAY_DAYS: i64 = 1;

/// From when until when a certificate is valid, both since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub not_before: Span,
    /// Its last second.
    pub not_after: Span,
}

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// An authority lies there already; overwriting it would cut off all its nodes.
    #[error(
        "{0} exists already: a new authority would cut off every node of the old one; name another directory with `--out`, or move the old files away"
    )]
    Exists(PathBuf),
    /// A file or directory could not be read or written.
    #[error("cannot {doing} {path}: {error}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The authority's files do not hold a certificate and its key.
    #[error(
        "{path} is not usable as an authority ({error}): make one with `tidegate certs ca --out {dir}`"
    )]
    Authority {
        /// The file.
        path: PathBuf,
        /// Its directory.
        dir: String,
        /// What is wrong with it.
        error: String,
    },
    /// The certificate could not be made.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Why a certificate does not say who its node is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a certificate.
    #[error("the certificate cannot be parsed: {0}")]
    Malformed(String),
    /// No URI of ours.
    #[error(
        "the certificate has no name `{SCHEME}region/node`: make node certificates with `tidegate certs node`"
    )]
    Missing,
    /// More than one URI of ours.
    #[error(
        "the certificate has more than one name `{SCHEME}region/node`: a certificate speaks for one node"
    )]
    Several,
    /// A URI of ours that is not `tidegate://region/node`.
    #[error("the certificate's name `{uri}` is not `{SCHEME}region/node`: {why}")]
    BadUri {
        /// The name.
        uri: String,
        /// What is wrong with it.
        why: String,
    },
}

/// An authority: signs the certificates of nodes.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
}

/// A node's certificate and private key, as PEM.
pub struct NodeCert {
    /// The certificate.
    pub cert_pem: String,
    /// The private key; keep it readable to the node alone.
    pub key_pem: String,
}

impl Authority {
    /// Makes a new authority, valid for ten years.
    pub fn generate() -> Result<Self, CertsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Tidegate cluster authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, Duration::days(CA_DAYS));
        let cert_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), cert_pem })
    }

    /// Reads `ca.pem` and `ca.key` from `dir`.
    pub fn read(dir: &Path) -> Result<Self, CertsError> {
        let (cert_path, key_path) = (dir.join(CA_CERT_FILE), dir.join(CA_KEY_FILE));
        let unusable = |path: &Path, error: rcgen::Error| CertsError::Authority {
            path: path.into(),
            dir: dir.display().to_string(),
            error: error.to_string(),
        };
        let key = KeyPair::from_pem(&read_text(&key_path)?).map_err(|e| unusable(&key_path, e))?;
        let cert_pem = read_text(&cert_path)?;
        let issuer =
            Issuer::from_ca_cert_pem(&cert_pem, key).map_err(|e| unusable(&cert_path, e))?;
        Ok(Self { issuer, cert_pem })
    }

    /// The authority's certificate, which every node must have.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Signs a certificate that says: this is node `id`. Valid for a year.
    pub fn sign(&self, id: &NodeId) -> Result<NodeCert, CertsError> {
        self.sign_for(id, Duration::days(NODE_DAYS))
    }

    /// As [`sign`](Self::sign), valid for so long.
    pub(crate) fn sign_for(&self, id: &NodeId, lifetime: Duration) -> Result<NodeCert, CertsError> {
        let key = KeyPair::generate()?;
        let cert = self.sign_key(id, &key, lifetime)?;
        Ok(NodeCert { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    fn sign_key(
        &self,
        id: &NodeId,
        key: &KeyPair,
        lifetime: Duration,
    ) -> Result<Certificate, CertsError> {
        let mut params = CertificateParams::new([SERVER_NAME.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, id.to_string());
        params.subject_alt_names.push(SanType::URI(identity_uri(id).try_into()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, lifetime);
        Ok(params.signed_by(key, &self.issuer)?)
    }
}

/// `tidegate certs ca`: writes a new authority to `ca.pem` and `ca.key` in `dir`.
///
/// Refuses to overwrite either file.
pub fn make_ca(dir: &Path) -> Result<(), CertsError> {
    let (cert_path, key_path) = (dir.join(CA_CERT_FILE), dir.join(CA_KEY_FILE));
    for path in [&cert_path, &key_path] {
        if path.exists() {
            return Err(CertsError::Exists(path.clone()));
        }
    }
    let authority = Authority::generate()?;
    create_dir(dir)?;
    write_secret(&key_path, &authority.issuer.key().serialize_pem())?;
    write(&cert_path, authority.cert_pem())
}

/// `tidegate certs node`: writes `node.pem` and `node.key` for `id` to `out`, signed by the
/// authority in `ca_dir`.
///
/// Replaces an older certificate, since that is how one is renewed: each file in one step, the key
/// first, so that a node which reads them meanwhile sees at worst a pair that does not fit, and looks
/// again.
pub fn make_node(ca_dir: &Path, id: &NodeId, out: &Path) -> Result<(), CertsError> {
    let made = Authority::read(ca_dir)?.sign(id)?;
    create_dir(out)?;
    write_secret(&out.join(NODE_KEY_FILE), &made.key_pem)?;
    write(&out.join(NODE_CERT_FILE), &made.cert_pem)
}

/// Reads from a certificate (DER) whose it is. Says nothing about who signed it.
pub fn identity(der: &[u8]) -> Result<NodeId, IdentityError> {
    let malformed = |e: &dyn std::fmt::Display| IdentityError::Malformed(e.to_string());
    let (_, cert) =
        x509_parser::certificate::X509Certificate::from_der(der).map_err(|e| malformed(&e))?;
    let names = cert.subject_alternative_name().map_err(|e| malformed(&e))?;
    let mut uris =
        names.iter().flat_map(|san| &san.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.next()) {
        (None, _) => Err(IdentityError::Missing),
        (Some(_), Some(_)) => Err(IdentityError::Several),
        (Some(uri), None) => parse_uri(uri),
    }
}

/// Reads from a certificate (DER) when it is valid.
pub fn validity(der: &[u8]) -> Result<Validity, IdentityError> {
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(der)
        .map_err(|e| IdentityError::Malformed(e.to_string()))?;
    let since_1970 =
        |time: ASN1Time| Span::from_secs(u64::try_from(time.timestamp()).unwrap_or_default());
    let validity = cert.validity();
    Ok(Validity {
        not_before: since_1970(validity.not_before),
        not_after: since_1970(validity.not_after),
    })
}

fn identity_uri(id: &NodeId) -> String {
    format!("{SCHEME}{id}")
}

fn parse_uri(uri: &str) -> Result<NodeId, IdentityError> {
    let bad = |why: String| IdentityError::BadUri { uri: uri.into(), why };
    let names = uri.strip_prefix(SCHEME).unwrap_or_default();
    let (region, node) =
        names.split_once('/').ok_or_else(|| bad("there is no `/` after the region".into()))?;
    NodeId::new(region, node).map_err(|e| bad(e.to_string()))
}

fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = OffsetDateTime::from(crate::clock::wall());
    params.not_before = now - Duration::days(LEEWAY_DAYS);
    params.not_after = now + lifetime;
}

fn read_text(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(file_error("read", path))
}

fn create_dir(path: &Path) -> Result<(), CertsError> {
    fs::create_dir_all(path).map_err(file_error("create the directory", path))
}

fn write(path: &Path, text: &str) -> Result<(), CertsError> {
    // As far as the umask lets.
    replace(path, text, 0o666)
}

/// Writes a file that only its owner can read, from its first byte on.
fn write_secret(path: &Path, text: &str) -> Result<(), CertsError> {
    replace(path, text, 0o600)
}

/// Puts a file in the place of an older one in one step: who reads it sees one of the two, whole.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    use std::{io::Write, os::unix::fs::PermissionsExt};

    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let written = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            Ok(file)
        });
    let persisted = written.and_then(|file| file.persist(path).map_err(|error| error.error));
    persisted.map(drop).map_err(file_error("write", path))
}

fn file_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> CertsError {
    move |error| CertsError::File { doing, path: path.into(), error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn with_uris(uris: &[&str]) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            uris.iter().map(|u| SanType::URI((*u).try_into().unwrap())).collect();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn files_are_made_and_say_who_the_node_is() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, out) = (dir.path().join("ca"), dir.path().join("eu-0"));
        let id = NodeId::new("eu", "eu-0").unwrap();
        make_ca(&ca).unwrap();
        make_node(&ca, &id, &out).unwrap();
        make_node(&ca, &id, &out).unwrap(); // renewal

        let pem = fs::read_to_string(out.join(NODE_CERT_FILE)).unwrap();
        assert_eq!(identity(&der(&pem)), Ok(id));
        for key in [ca.join(CA_KEY_FILE), out.join(NODE_KEY_FILE)] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn an_authority_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        make_ca(dir.path()).unwrap();
        let before = fs::read(dir.path().join(CA_KEY_FILE)).unwrap();
        let error = make_ca(dir.path()).unwrap_err();
        assert!(error.to_string().contains("exists already"), "{error}");
        assert_eq!(fs::read(dir.path().join(CA_KEY_FILE)).unwrap(), before);
    }

    #[test]
    fn a_missing_or_broken_authority_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let id = NodeId::new("eu", "eu-0").unwrap();
        let error = make_node(dir.path(), &id, dir.path()).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains(CA_KEY_FILE), "{error}");

        fs::write(dir.path().join(CA_KEY_FILE), "nonsense").unwrap();
        let error = make_node(dir.path(), &id, dir.path()).unwrap_err().to_string();
        assert!(error.contains("not usable") && error.contains("tidegate certs ca"), "{error}");
    }

    #[test]
    fn a_certificate_names_exactly_one_node() {
        assert_eq!(identity(&with_uris(&["https://example.org/"])), Err(IdentityError::Missing));
        let two = with_uris(&["tidegate://eu/a", "tidegate://eu/b"]);
        assert_eq!(identity(&two), Err(IdentityError::Several));
        for bad in ["tidegate://eu", "tidegate://eu/a/b", "tidegate:///a", "tidegate://e u/a"] {
            let error = identity(&with_uris(&[bad])).unwrap_err();
            assert!(matches!(error, IdentityError::BadUri { .. }), "{bad}: {error}");
        }
        assert!(matches!(identity(b"not DER"), Err(IdentityError::Malformed(_))));
    }
}
