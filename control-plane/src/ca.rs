//! The certificate authority: one root, made on the first start or supplied, that signs leaves directly.
//!
//! What a leaf says is decided in the core ([`weft_control_plane_core::issue`]); here it is written down and signed.
//! Of a request only the key is taken, after its signature has proved that the requester has it. The root carries no
//! name constraints (verifiers refuse those on URIs) and may have no authority below it. The key is made with mode 0600
//! and never replaced: a file that is there is used.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use thiserror::Error;
use time::OffsetDateTime;
use weft_control_plane_core::issue::{CSR_BYTES_MAX, LeafSpec, PublicKey, UnixTime};
use weft_identity::bundle::{BundleError, TrustBundle};
use weft_identity::files::{self, FileError, PRIVATE_MODE};
use weft_identity::spiffe::TrustDomain;
use weft_identity::tls;
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use crate::config::{OwnName, SuppliedRoot};

/// Name of the root's file in the state directory.
const ROOT_FILE: &str = "ca-cert.pem";

/// Name of the root key's file.
const KEY_FILE: &str = "ca-key.pem";

/// Name of the trust bundle's file: what proxies are given to begin with.
pub const BUNDLE_FILE: &str = "trust-bundle.pem";

/// How long a root that is made here is valid.
const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

/// How far its validity begins before it is made, against clocks that are behind.
const ROOT_BACKDATE: Duration = Duration::from_hours(1);

/// Bytes of a serial number (RFC 5280 allows 20).
const SERIAL_BYTES: usize = 16;

/// The curve P-256 (`prime256v1`).
const P256: &str = "1.2.840.10045.3.1.7";

/// The curve P-384 (`secp384r1`).
const P384: &str = "1.3.132.0.34";

/// The authority can't be set up.
#[derive(Debug, Error)]
pub enum CaError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key file can't be made.
    #[error("cannot make {}: {source}; the directory must belong to this process", path.display())]
    Create {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A supplied file isn't there.
    #[error("{} is not there; --ca-certificate and --ca-key name PEM files", .0.display())]
    Absent(PathBuf),
    /// The key can't be used.
    #[error("the root's key in {} can't be used: {reason}; it has to be PKCS#8 in PEM", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate can't be used.
    #[error("the root in {} can't be used: {reason}", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate is of another key.
    #[error("the root in {} is of another key than {}", certificate.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// It is no root.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Signing failed.
    #[error("the root can't sign: {0}")]
    Sign(#[from] rcgen::Error),
}

/// A certificate signing request is not usable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Too long.
    #[error("a certificate request of {0} bytes; at most {CSR_BYTES_MAX} are taken")]
    TooLong(usize),
    /// Not PKCS#10, or of an unknown algorithm, or its signature isn't by its key.
    #[error("the certificate request is malformed or not signed by its own key: {0}")]
    Malformed(String),
}

/// A key that its owner proved to have.
pub struct ProvenKey {
    key: rcgen::PublicKey,
    kind: PublicKey,
}

impl ProvenKey {
    /// Reads a request and verifies its signature. The names in it are not looked at.
    pub fn from_csr(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > CSR_BYTES_MAX {
            return Err(RequestError::TooLong(der.len()));
        }
        let malformed = |reason: &dyn ToString| RequestError::Malformed(reason.to_string());
        let (_, parsed) = X509CertificationRequest::from_der(der).map_err(|error| malformed(&error))?;
        let curve = parsed
            .certification_request_info
            .subject_pki
            .algorithm
            .parameters
            .as_ref();
        let curve = curve
            .and_then(|parameters| parameters.as_oid().ok())
            .map(|oid| oid.to_id_string());
        let request = CertificateSigningRequestDer::from(der);
        let request =
            CertificateSigningRequestParams::from_der(&request).map_err(|error| malformed(&error))?;
        // The signing library goes by the signature's algorithm; a key of another curve must not pass for it.
        let algorithm = request.public_key.algorithm();
        let kind = match curve.as_deref() {
            Some(P256) if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 => PublicKey::EcP256,
            Some(P384) if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 => PublicKey::EcP384,
            _ => PublicKey::Other,
        };
        Ok(Self {
            key: request.public_key,
            kind,
        })
    }

    /// Its kind.
    pub fn kind(&self) -> PublicKey {
        self.kind
    }
}

/// See the module's head.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    trust_domain: TrustDomain,
    bundle: TrustBundle,
    not_after: UnixTime,
}

impl CertificateAuthority {
    /// The supplied root, or that of the state directory, which is made if it isn't there. Also writes the trust bundle
    /// into the state directory.
    pub fn open(
        state_dir: &Path,
        supplied: Option<&SuppliedRoot>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, CaError> {
        let (certificate, key) = match supplied {
            Some(root) => (root.certificate.clone(), root.key.clone()),
            None => (state_dir.join(ROOT_FILE), state_dir.join(KEY_FILE)),
        };
        if supplied.is_none() {
            make_if_absent(&certificate, &key, trust_domain)?;
        }
        let authority = Self::load(&certificate, &key, trust_domain)?;
        authority.bundle.save(&state_dir.join(BUNDLE_FILE))?;
        Ok(authority)
    }

    fn load(certificate: &Path, key: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let pair = read_key(key)?;
        let bytes = files::read(certificate)?.ok_or_else(|| CaError::Absent(certificate.to_owned()))?;
        let unusable = |reason: String| CaError::Certificate {
            path: certificate.to_owned(),
            reason,
        };
        let der = CertificateDer::from_pem_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| unusable(error.to_string()))?;
        if parsed.tbs_certificate.subject_pki.raw != pair.subject_public_key_info() {
            return Err(CaError::Mismatch {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            });
        }
        let not_after = UnixTime(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0));
        let issuer = Issuer::from_ca_cert_der(&der, pair)?;
        let bundle = TrustBundle::new(trust_domain.clone(), vec![der])?;
        Ok(Self {
            issuer,
            trust_domain: trust_domain.clone(),
            bundle,
            not_after,
        })
    }

    /// The roots to trust.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// Until when the root is valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Signs the leaf that `spec` describes, for `key`; `names`: further names, for the control plane's own.
    pub fn sign(
        &self,
        spec: &LeafSpec,
        key: &ProvenKey,
        names: &[OwnName],
    ) -> Result<CertificateDer<'static>, CaError> {
        let uri = format!(
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, spec.account.namespace, spec.account.name
        );
        let mut subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        for name in names {
            subject_alt_names.push(match name {
                OwnName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                OwnName::Address(address) => SanType::IpAddress(*address),
            });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = subject_alt_names;
        params.not_before = moment(spec.not_before);
        params.not_after = moment(spec.not_after);
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&key.key, &self.issuer)?.der().clone())
    }
}

fn read_key(path: &Path) -> Result<KeyPair, CaError> {
    let bytes = files::read(path)?.ok_or_else(|| CaError::Absent(path.to_owned()))?;
    let unusable = |reason: String| CaError::Key {
        path: path.to_owned(),
        reason,
    };
    let text = String::from_utf8(bytes).map_err(|_| unusable("it is not PEM".into()))?;
    KeyPair::from_pem(&text).map_err(|error| unusable(error.to_string()))
}

/// Makes what isn't there: the key first, exclusively, so that of two processes one wins and the other uses its key; a
/// crash in between leaves a key without a certificate, which the next start makes.
fn make_if_absent(certificate: &Path, key: &Path, trust_domain: &TrustDomain) -> Result<(), CaError> {
    if files::read(certificate)?.is_some() {
        return Ok(());
    }
    let fresh = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    match create_exclusively(key, fresh.serialize_pem().as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(CaError::Create {
                path: key.to_owned(),
                source: error,
            });
        }
        _ => {}
    }
    let pem = self_signed(&read_key(key)?, trust_domain)?;
    Ok(files::write_private(certificate, pem.as_bytes())?)
}

fn create_exclusively(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_MODE)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn self_signed(key: &KeyPair, trust_domain: &TrustDomain) -> Result<String, rcgen::Error> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("Weft root of {trust_domain}"));
    params.serial_number = Some(serial()?);
    params.not_before = OffsetDateTime::from(now - ROOT_BACKDATE);
    params.not_after = OffsetDateTime::from(now + ROOT_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?.pem())
}

/// A random serial number, positive.
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; SERIAL_BYTES];
    let filled = tls::provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// As certificates have it: whole seconds, and no later than the year 9999.
fn moment(time: UnixTime) -> OffsetDateTime {
    let latest = OffsetDateTime::from_unix_timestamp(253_402_300_799).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let seconds = i64::try_from(time.0).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(latest)
}

#[cfg(test)]
mod tests;
