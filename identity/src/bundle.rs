//! The trust bundle: the set of roots that a trust domain stands on.
//!
//! It is a set so that roots can be exchanged while old and new leaves are in use. It belongs to one trust domain: a
//! root of one domain says nothing about ids of another.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::files::{self, FileError};
use crate::spiffe::TrustDomain;

/// Most roots in one bundle.
pub const MAX_ROOTS: usize = 32;

/// Why a trust bundle can't be used.
#[derive(Debug, Error)]
pub enum BundleError {
    /// It could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file isn't there.
    #[error("there is no trust bundle at {0}; the control plane writes its own as trust-bundle.pem")]
    Absent(String),
    /// Not PEM.
    #[error("the trust bundle is not PEM: {0}")]
    Pem(String),
    /// Nothing to trust, or too much.
    #[error("the trust bundle of {domain} holds {count} certificates, 1 to {MAX_ROOTS} are needed")]
    Count {
        /// Whose it is.
        domain: TrustDomain,
        /// How many there are.
        count: usize,
    },
    /// One of them can't be a root.
    #[error("certificate {index} of the trust bundle is not the certificate of an authority")]
    NotARoot {
        /// Which one, counted from 1.
        index: usize,
    },
}

/// The roots of one trust domain, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
}

impl TrustBundle {
    /// A bundle of these roots. Their order doesn't matter, doubles are dropped.
    pub fn new(
        trust_domain: TrustDomain,
        mut roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        if roots.is_empty() || roots.len() > MAX_ROOTS {
            return Err(BundleError::Count {
                domain: trust_domain,
                count: roots.len(),
            });
        }
        if let Some(at) = roots.iter().position(|root| !is_authority(root)) {
            return Err(BundleError::NotARoot { index: at + 1 });
        }
        roots.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        roots.dedup();
        Ok(Self { trust_domain, roots })
    }

    /// Reads a PEM bundle.
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        Self::new(
            trust_domain,
            roots.map_err(|error| BundleError::Pem(error.to_string()))?,
        )
    }

    /// Reads the PEM bundle at `path`.
    pub fn load(trust_domain: TrustDomain, path: &Path) -> Result<Self, BundleError> {
        let pem = files::read(path)?.ok_or_else(|| BundleError::Absent(path.display().to_string()))?;
        Self::from_pem(trust_domain, &pem)
    }

    /// Writes it as PEM.
    pub fn save(&self, path: &Path) -> Result<(), BundleError> {
        Ok(files::write_private(path, self.to_pem().as_bytes())?)
    }

    /// Whose it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, sorted.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// As PEM, the roots one after another.
    pub fn to_pem(&self) -> String {
        certificates_to_pem(&self.roots)
    }

    /// SHA-256 over the sorted roots, lower-case hexadecimal: equal exactly for equal sets.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        for root in &self.roots {
            digest.update(Sha256::digest(root));
        }
        crate::hex(&digest.finalize())
    }
}

/// Names one certificate: SHA-256 over it, lower-case hexadecimal.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    crate::hex(&Sha256::digest(certificate))
}

/// Certificates as PEM, in their order.
pub fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    certificates
        .iter()
        .map(|certificate| pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate.as_ref()), config))
        .collect()
}

fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    matches!(X509Certificate::from_der(certificate), Ok(([], parsed)) if parsed.is_ca())
}
