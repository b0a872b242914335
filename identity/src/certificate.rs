//! What a workload's certificate says, read once and strictly.
//!
//! A chain that leads to a root is not enough: the certificate must be a leaf, carry exactly one URI in its subject
//! alternative names and that a SPIFFE id, and be meant for both sides of TLS. DNS names and addresses may stand
//! beside it (the control plane's leaf has them) and say nothing about identity; the common name is never read.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::spiffe::{SpiffeError, SpiffeId};

/// Why a certificate is none of a workload.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CertificateError {
    /// The peer or the file has none.
    #[error("there is no certificate")]
    Missing,
    /// Not X.509, or not one whole certificate.
    #[error("the certificate is malformed")]
    Malformed,
    /// A certificate authority in the place of a leaf.
    #[error("the certificate belongs to an authority, not to a workload")]
    Authority,
    /// Not meant for both sides of TLS.
    #[error("the certificate's extended key usage lacks server or client authentication")]
    Usage,
    /// Not exactly one URI.
    #[error("the certificate has {0} URI names, exactly one SPIFFE id is needed")]
    UriNames(usize),
    /// The URI isn't a workload's id.
    #[error("the certificate's URI is no workload identity: {0}")]
    Id(#[from] SpiffeError),
}

/// What is known of an authenticated certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Whose it is.
    pub id: SpiffeId,
    /// The serial number, lower-case hexadecimal.
    pub serial: String,
    /// First moment at which it is valid.
    pub not_before: SystemTime,
    /// Last moment at which it is valid.
    pub not_after: SystemTime,
}

impl Details {
    /// Reads a workload's certificate. Says nothing about who signed it or whether it is valid now.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let parsed = parse(certificate)?;
        if parsed.is_ca() {
            return Err(CertificateError::Authority);
        }
        if !serves_both_sides(&parsed)? {
            return Err(CertificateError::Usage);
        }
        Ok(Self {
            id: single_id(&parsed)?,
            serial: crate::hex(parsed.raw_serial()),
            not_before: moment(parsed.validity().not_before),
            not_after: moment(parsed.validity().not_after),
        })
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(CertificateError::Malformed),
    }
}

fn serves_both_sides(parsed: &X509Certificate<'_>) -> Result<bool, CertificateError> {
    let usage = parsed
        .extended_key_usage()
        .map_err(|_| CertificateError::Malformed)?;
    Ok(usage.is_some_and(|usage| usage.value.server_auth && usage.value.client_auth))
}

fn single_id(parsed: &X509Certificate<'_>) -> Result<SpiffeId, CertificateError> {
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| CertificateError::Malformed)?;
    let mut uris = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri.parse()?),
        (first, others) => Err(CertificateError::UriNames(usize::from(first.is_some()) + others)),
    }
}

fn moment(time: ASN1Time) -> SystemTime {
    match u64::try_from(time.timestamp()) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        // Before 1970: long over, whatever it was.
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}
