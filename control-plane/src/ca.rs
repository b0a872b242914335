//! The certificate authority: a root, or an authority below one, that signs leaves directly.
//!
//! What a leaf says is decided in the core ([`weft_control_plane_core::issue`]); here it is written down and signed.
//! Of a request only the key is taken, after its signature has proved that the requester has it. Where the PEM comes
//! from is somebody else's business: [`directory`] has the state directory, the cluster's Secret is read elsewhere. What
//! is supplied is tried before it is used: a leaf of it has to be accepted by those who trust its roots.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use thiserror::Error;
use time::OffsetDateTime;
use weft_control_plane_core::issue::{CSR_BYTES_MAX, LIFETIME_MIN, LeafSpec, PublicKey, UnixTime};
use weft_control_plane_core::rights::Account;
use weft_identity::bundle::{BundleError, TrustBundle, fingerprint};
use weft_identity::files::FileError;
use weft_identity::leaf::{self, Leaf, LeafError, MAX_CHAIN};
use weft_identity::spiffe::TrustDomain;
use weft_identity::tls::{self, TlsError};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use crate::config::{ACCOUNT, OwnName};

pub mod directory;

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
    /// A supplied file isn't there.
    #[error("{} is not there; --ca-certificate and --ca-key name PEM files", .0.display())]
    Absent(PathBuf),
    /// The key can't be used.
    #[error("the root's key in {origin} can't be used: {reason}; it has to be one unencrypted key in PEM")]
    Key {
        /// Where it is.
        origin: String,
        /// Why.
        reason: String,
    },
    /// The certificate can't be used.
    #[error("the root in {origin} can't be used: {reason}")]
    Certificate {
        /// Where it is.
        origin: String,
        /// Why.
        reason: String,
    },
    /// The certificate is of another key.
    #[error("the root in {certificate} is of another key than {key}")]
    Mismatch {
        /// Where the certificate is.
        certificate: String,
        /// Where the key is.
        key: String,
    },
    /// It is no root.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A leaf that was signed to try it is not accepted.
    #[error("what the authority in {origin} signs is not accepted by those who trust {roots}: {reason}")]
    Untrusted {
        /// Where the certificate is.
        origin: String,
        /// Where the roots are.
        roots: String,
        /// What they say.
        reason: String,
    },
    /// Signing failed.
    #[error("the root can't sign: {0}")]
    Sign(#[from] rcgen::Error),
    /// A key for trying it can't be made.
    #[error("the root can't be tried: {0}")]
    Trial(#[from] LeafError),
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

/// A root as it was found.
#[derive(Clone, Copy, Debug)]
pub struct Material<'a> {
    /// The authority's certificate, PEM; after it those that lead from it to a root, if it isn't one itself.
    pub certificate: &'a [u8],
    /// Its key, PEM.
    pub key: &'a [u8],
    /// The roots to trust, PEM; `None`: the certificates above hold their root.
    pub roots: Option<&'a [u8]>,
    /// Where all that is, for messages.
    pub origin: Origin<'a>,
}

/// Where [`Material`] was found.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The certificate.
    pub certificate: &'a str,
    /// The key.
    pub key: &'a str,
    /// The roots.
    pub roots: &'a str,
}

/// See the module's head.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    /// What leads from a leaf to a root; nothing when the root signs itself.
    intermediates: Vec<CertificateDer<'static>>,
    trust_domain: TrustDomain,
    bundle: TrustBundle,
    not_after: UnixTime,
    fingerprint: String,
}

impl CertificateAuthority {
    /// Takes what was found, if a leaf that it signs would be accepted by those who trust its roots.
    pub fn new(material: &Material<'_>, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let origin = material.origin;
        let pair = read_key(material.key, origin.key)?;
        let unusable = |reason: String| CaError::Certificate {
            origin: origin.certificate.to_owned(),
            reason,
        };
        let chain = read_chain(material.certificate).map_err(unusable)?;
        let facts = chain.iter().map(facts).collect::<Result<Vec<_>, _>>();
        let facts = facts.map_err(unusable)?;
        let (Some(own), Some(own_facts)) = (chain.first(), facts.first()) else {
            return Err(unusable("it holds no certificate".to_owned()));
        };
        if own_facts.public_key != pair.subject_public_key_info() {
            return Err(CaError::Mismatch {
                certificate: origin.certificate.to_owned(),
                key: origin.key.to_owned(),
            });
        }
        let bundle = roots(material, &chain, &facts, trust_domain)?;
        let issuer = Issuer::from_ca_cert_der(own, pair)?;
        let not_after = facts.iter().map(|facts| facts.not_after).min();
        let below_roots = chain.iter().zip(&facts).filter(|(_, facts)| !facts.self_issued);
        let authority = Self {
            issuer,
            intermediates: below_roots.map(|(certificate, _)| certificate.clone()).collect(),
            trust_domain: trust_domain.clone(),
            bundle,
            not_after: not_after.unwrap_or_default(),
            fingerprint: fingerprint(own),
        };
        authority.try_it(origin)?;
        Ok(authority)
    }

    /// Signs a leaf for a key that is thrown away, and has it verified.
    fn try_it(&self, origin: Origin<'_>) -> Result<(), CaError> {
        let key = leaf::KeyPair::generate()?;
        let csr = key.csr_der()?;
        let proven = ProvenKey::from_csr(&csr).map_err(|error| LeafError::Key(error.to_string()))?;
        let now = SystemTime::now();
        let seconds = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let spec = LeafSpec {
            account: Account::new(ACCOUNT.0, ACCOUNT.1),
            not_before: UnixTime(seconds.saturating_sub(1)),
            not_after: UnixTime(seconds.saturating_add(LIFETIME_MIN.as_secs())),
        };
        let leaf = Leaf::new(self.sign(&spec, &proven, &[])?, &key)?;
        tls::vouches(&self.bundle, &leaf, now).map_err(|error: TlsError| CaError::Untrusted {
            origin: origin.certificate.to_owned(),
            roots: origin.roots.to_owned(),
            reason: error.to_string(),
        })
    }

    /// The roots to trust.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// Names its certificate: SHA-256 over it, lower-case hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Until when it, and what leads to its root, is valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Signs the leaf that `spec` describes, for `key`; `names`: further names, for the control plane's own. Returns the
    /// chain that its owner shows, leaf first.
    pub fn sign(
        &self,
        spec: &LeafSpec,
        key: &ProvenKey,
        names: &[OwnName],
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
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
        let leaf = params.signed_by(&key.key, &self.issuer)?.der().clone();
        Ok(std::iter::once(leaf)
            .chain(self.intermediates.iter().cloned())
            .collect())
    }
}

/// What matters of an authority's certificate.
struct Facts {
    public_key: Vec<u8>,
    self_issued: bool,
    not_after: UnixTime,
}

fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let name = parsed.subject();
    if !parsed.is_ca() {
        return Err(format!(
            "{name} is no authority (basic constraints without CA:TRUE)"
        ));
    }
    Ok(Facts {
        public_key: parsed.tbs_certificate.subject_pki.raw.to_vec(),
        self_issued: parsed.subject().as_raw() == parsed.issuer().as_raw(),
        not_after: UnixTime(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0)),
    })
}

fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| format!("it is not PEM: {error}"))?;
    if chain.len() > MAX_CHAIN {
        let found = chain.len();
        return Err(format!(
            "it holds {found} certificates, at most {MAX_CHAIN} are taken"
        ));
    }
    Ok(chain)
}

fn roots(
    material: &Material<'_>,
    chain: &[CertificateDer<'static>],
    facts: &[Facts],
    trust_domain: &TrustDomain,
) -> Result<TrustBundle, CaError> {
    if let Some(pem) = material.roots {
        return Ok(TrustBundle::from_pem(trust_domain.clone(), pem)?);
    }
    let own = chain.iter().zip(facts).find(|(_, facts)| facts.self_issued);
    let (root, _) = own.ok_or_else(|| CaError::Certificate {
        origin: material.origin.certificate.to_owned(),
        reason: format!(
            "it is below another authority, whose root is neither behind it nor in {}",
            material.origin.roots
        ),
    })?;
    Ok(TrustBundle::new(trust_domain.clone(), vec![root.clone()])?)
}

fn read_key(pem: &[u8], origin: &str) -> Result<KeyPair, CaError> {
    let unusable = |reason: String| CaError::Key {
        origin: origin.to_owned(),
        reason,
    };
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| unusable(error.to_string()))?;
    KeyPair::try_from(&der).map_err(|error| unusable(error.to_string()))
}

/// A root that was just made.
pub struct NewRoot {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PEM (PKCS#8).
    pub key: String,
}

/// Makes a root, self-signed, with a key of its own.
pub fn make_root(trust_domain: &TrustDomain) -> Result<NewRoot, CaError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    Ok(NewRoot {
        certificate: self_signed(&key, trust_domain)?,
        key: key.serialize_pem(),
    })
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
