use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use weft_control_plane_core::rights::Account;
use weft_identity::certificate::Details;
use weft_identity::leaf;

use super::directory::{BUNDLE_FILE, KEY_FILE, ROOT_FILE};
use super::*;
use crate::config::SuppliedRoot;

fn domain() -> TrustDomain {
    "mesh.test".parse().unwrap()
}

fn open(dir: &Path) -> CertificateAuthority {
    directory::open(dir, None, &domain()).unwrap()
}

fn spec() -> LeafSpec {
    LeafSpec {
        account: Account::new("shop", "user"),
        not_before: UnixTime(1_700_000_000),
        not_after: UnixTime(1_700_086_400),
    }
}

fn proven() -> ProvenKey {
    ProvenKey::from_csr(&leaf::KeyPair::generate().unwrap().csr_der().unwrap()).unwrap()
}

#[test]
fn the_root_is_made_once_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).bundle().fingerprint();
    assert_eq!(open(dir.path()).bundle().fingerprint(), first);
    let mode = fs::metadata(dir.path().join(KEY_FILE))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::remove_file(dir.path().join(ROOT_FILE)).unwrap();
    let key = fs::read(dir.path().join(KEY_FILE)).unwrap();
    open(dir.path());
    assert_eq!(
        fs::read(dir.path().join(KEY_FILE)).unwrap(),
        key,
        "a key that is there is used"
    );
    let bundle = TrustBundle::load(domain(), &dir.path().join(BUNDLE_FILE)).unwrap();
    assert_eq!(bundle.roots().len(), 1);
}

#[test]
fn a_supplied_root_has_to_fit_its_key() {
    let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(mine.path());
    open(other.path());
    let root = |certificate: &Path, key: &Path| SuppliedRoot {
        certificate: certificate.join(ROOT_FILE),
        key: key.join(KEY_FILE),
    };
    let state = tempfile::tempdir().unwrap();
    let good = root(mine.path(), mine.path());
    assert!(directory::open(state.path(), Some(&good), &domain()).is_ok());
    assert!(!state.path().join(KEY_FILE).exists());
    let bad = root(mine.path(), other.path());
    let refused = directory::open(state.path(), Some(&bad), &domain());
    assert!(matches!(refused, Err(CaError::Mismatch { .. })));
    let none = root(state.path(), state.path());
    assert!(matches!(
        directory::open(state.path(), Some(&none), &domain()),
        Err(CaError::Absent(_))
    ));
}

#[test]
fn a_leaf_says_what_was_decided() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path());
    let names = [
        OwnName::Dns("localhost".into()),
        OwnName::Address([127, 0, 0, 1].into()),
    ];
    let key = proven();
    let leaf = authority.sign(&spec(), &key, &names).unwrap().remove(0);
    let details = Details::read(&leaf).unwrap();
    assert_eq!(details.id.as_str(), "spiffe://mesh.test/ns/shop/sa/user");
    assert_eq!(
        details.not_after,
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_086_400)
    );
    let again = Details::read(&authority.sign(&spec(), &key, &names).unwrap()[0]).unwrap();
    assert_ne!(
        details.serial, again.serial,
        "one key, two certificates, two serial numbers"
    );
    let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
    assert!(!parsed.is_ca());
    assert_eq!(
        parsed
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        3
    );
}

#[test]
fn names_and_powers_in_a_request_count_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI(
        "spiffe://mesh.test/ns/bank/sa/root".try_into().unwrap(),
    ));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let csr = params.serialize_request(&pair).unwrap();
    let key = ProvenKey::from_csr(csr.der()).unwrap();
    assert_eq!(key.kind(), PublicKey::EcP384);
    let leaf = open(dir.path()).sign(&spec(), &key, &[]).unwrap().remove(0);
    assert_eq!(
        Details::read(&leaf).unwrap().id.as_str(),
        "spiffe://mesh.test/ns/shop/sa/user"
    );
    let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(
        parsed
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        1
    );
    assert!(!parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[test]
fn a_request_has_to_prove_its_key() {
    let csr = leaf::KeyPair::generate().unwrap().csr_der().unwrap();
    // The key lies within the first hundred bytes, the signature's numbers within the last sixty.
    for at in (0..100).chain(csr.len() - 60..csr.len()).step_by(3) {
        let mut broken = csr.clone();
        broken[at] ^= 0x55;
        let kind = ProvenKey::from_csr(&broken).map(|key| key.kind());
        assert!(
            !matches!(kind, Ok(PublicKey::EcP256 | PublicKey::EcP384)),
            "byte {at}"
        );
    }
    assert!(matches!(
        ProvenKey::from_csr(&[]),
        Err(RequestError::Malformed(_))
    ));
    assert!(matches!(
        ProvenKey::from_csr(&vec![0; CSR_BYTES_MAX + 1]),
        Err(RequestError::TooLong(_))
    ));
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let csr = CertificateParams::default().serialize_request(&ed25519).unwrap();
    assert_eq!(ProvenKey::from_csr(csr.der()).unwrap().kind(), PublicKey::Other);
}
