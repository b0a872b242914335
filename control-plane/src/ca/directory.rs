//! The root in the state directory: made on the first start, or supplied as files. The key is made with mode 0600 and
//! never replaced: a file that is there is used.

use std::path::Path;

use rcgen::KeyPair;
use weft_identity::files;
use weft_identity::spiffe::TrustDomain;

use super::{CaError, CertificateAuthority, Material, Origin, read_key, self_signed};
use crate::config::SuppliedRoot;

/// Name of the root's file in the state directory.
pub(super) const ROOT_FILE: &str = "ca-cert.pem";

/// Name of the root key's file.
pub(super) const KEY_FILE: &str = "ca-key.pem";

/// Name of the trust bundle's file: what proxies are given to begin with.
pub const BUNDLE_FILE: &str = "trust-bundle.pem";

/// The supplied root, or that of the state directory, which is made if it isn't there. Also writes the trust bundle
/// into the state directory.
pub fn open(
    state_dir: &Path,
    supplied: Option<&SuppliedRoot>,
    trust_domain: &TrustDomain,
) -> Result<CertificateAuthority, CaError> {
    let (certificate, key) = match supplied {
        Some(root) => (root.certificate.clone(), root.key.clone()),
        None => (state_dir.join(ROOT_FILE), state_dir.join(KEY_FILE)),
    };
    if supplied.is_none() {
        make_if_absent(&certificate, &key, trust_domain)?;
    }
    let authority = load(&certificate, &key, trust_domain)?;
    authority.bundle().save(&state_dir.join(BUNDLE_FILE))?;
    Ok(authority)
}

fn load(certificate: &Path, key: &Path, trust_domain: &TrustDomain) -> Result<CertificateAuthority, CaError> {
    let (certificate_pem, key_pem) = (present(certificate)?, present(key)?);
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let material = Material {
        certificate: &certificate_pem,
        key: &key_pem,
        roots: None,
        origin: Origin {
            certificate: &certificate,
            key: &key,
            roots: &certificate,
        },
    };
    CertificateAuthority::new(&material, trust_domain)
}

fn present(path: &Path) -> Result<Vec<u8>, CaError> {
    files::read(path)?.ok_or_else(|| CaError::Absent(path.to_owned()))
}

/// Makes what isn't there: the key first, exclusively, so that of two processes one wins and the other uses its key; a
/// crash in between leaves a key without a certificate, which the next start makes.
fn make_if_absent(certificate: &Path, key: &Path, trust_domain: &TrustDomain) -> Result<(), CaError> {
    if files::read(certificate)?.is_some() {
        return Ok(());
    }
    let fresh = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    files::create_private(key, fresh.serialize_pem().as_bytes())?;
    let pair = read_key(&present(key)?, &key.display().to_string())?;
    let pem = self_signed(&pair, trust_domain)?;
    Ok(files::write_private(certificate, pem.as_bytes())?)
}
