//! A workload's key and the certificate for it.
//!
//! The key is made where it is used and never leaves the process but into its own 0600 file. Key and chain are one
//! PEM file, so that a crash can't leave a key with somebody else's certificate.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use crate::bundle::certificates_to_pem;
use crate::certificate::{CertificateError, Details};
use crate::files::{self, FileError};
use crate::provider::provider;
use crate::spiffe::SpiffeId;

/// Most certificates in a chain, the leaf included.
pub const MAX_CHAIN: usize = 4;

/// Why a leaf can't be used.
#[derive(Debug, Error)]
pub enum LeafError {
    /// It could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate is none of a workload.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// More certificates than [`MAX_CHAIN`].
    #[error("the chain has {0} certificates, at most {MAX_CHAIN} are allowed")]
    TooLong(usize),
    /// The key isn't the one that was certified.
    #[error("the certificate was issued for another key")]
    WrongKey,
    /// The key can't be used.
    #[error("the private key is unusable: {0}")]
    Key(String),
    /// Not PEM, or without a chain or a key.
    #[error("{path} holds no PEM certificate chain and key: {reason}")]
    Pem {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// An ECDSA P-256 key, before or after it was certified.
pub struct KeyPair(rcgen::KeyPair);

impl KeyPair {
    /// Makes a new one.
    pub fn generate() -> Result<Self, LeafError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256);
        key.map(Self).map_err(|error| LeafError::Key(error.to_string()))
    }

    /// A certificate signing request (PKCS#10, DER) that proves possession of the key and names nobody.
    pub fn csr_der(&self) -> Result<Vec<u8>, LeafError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params
            .serialize_request(&self.0)
            .map_err(|error| LeafError::Key(error.to_string()))?;
        Ok(request.der().to_vec())
    }

    fn pkcs8(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(secret)")
    }
}

/// A certified key. Cheap to clone; its [`fmt::Debug`] shows no key.
#[derive(Clone)]
pub struct Leaf {
    certified: Arc<CertifiedKey>,
    key: Arc<PrivateKeyDer<'static>>,
    details: Details,
}

impl Leaf {
    /// The chain that was signed for `key`, leaf first.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self, LeafError> {
        Self::from_parts(chain, key.pkcs8())
    }

    pub(crate) fn from_parts(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, LeafError> {
        if chain.len() > MAX_CHAIN {
            return Err(LeafError::TooLong(chain.len()));
        }
        let details = Details::read(chain.first().ok_or(CertificateError::Missing)?)?;
        let signer = provider()
            .key_provider
            .load_private_key(key.clone_key())
            .map_err(|error| LeafError::Key(error.to_string()))?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(|_| LeafError::WrongKey)?;
        Ok(Self {
            certified: Arc::new(certified),
            key: Arc::new(key),
            details,
        })
    }

    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.details.id
    }

    /// The serial number, lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.details.serial
    }

    /// First moment at which it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.details.not_before
    }

    /// Last moment at which it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.details.not_after
    }

    /// The time for which it was issued.
    pub fn lifetime(&self) -> Duration {
        self.not_after()
            .duration_since(self.not_before())
            .unwrap_or_default()
    }

    /// Whether it is valid at `now`.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        (self.not_before()..=self.not_after()).contains(&now)
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The chain as PEM, leaf first.
    pub fn chain_pem(&self) -> String {
        certificates_to_pem(self.chain())
    }

    /// The private key as PKCS#8 PEM: for the workload's own 0600 file only.
    pub fn key_pem(&self) -> String {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("PRIVATE KEY", self.key.secret_der()), config)
    }

    /// What rustls signs with.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// Writes chain and key as one PEM file, readable by its owner only.
    pub fn save(&self, path: &Path) -> Result<(), LeafError> {
        Ok(files::write_private(
            path,
            format!("{}{}", self.chain_pem(), self.key_pem()).as_bytes(),
        )?)
    }

    /// Reads what [`Leaf::save`] wrote; `None` when there is no such file.
    pub fn load(path: &Path) -> Result<Option<Self>, LeafError> {
        let Some(pem) = files::read(path)? else {
            return Ok(None);
        };
        let unusable = |error: rustls_pki_types::pem::Error| LeafError::Pem {
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(unusable)?;
        Self::from_parts(chain.map_err(unusable)?, key).map(Some)
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("details", &self.details)
            .finish_non_exhaustive()
    }
}
