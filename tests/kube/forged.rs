//! Tokens and certificate requests that nobody makes by accident, and an authority to ask.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, decode_header, encode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use serde_json::Value;
use weft_control_plane::ca::directory;
use weft_control_plane::certificates::Issuing;
use weft_tests::kube::Kubernetes;

/// A root of its own, in trust domain `mesh.test`.
pub(crate) fn issuing() -> Arc<Issuing> {
    let folder = tempfile::tempdir().expect("a folder");
    let domain = "mesh.test".parse().expect("a trust domain");
    let authority = directory::open(folder.path(), None, &domain).expect("a root");
    Arc::new(Issuing::new(authority, Duration::from_hours(1)))
}

/// Signs tokens with somebody's key.
pub(crate) struct Signer(EncodingKey);

impl Signer {
    /// With the key of this PEM, whatever its form.
    pub(crate) async fn new(kubernetes: &Kubernetes, pem: &str) -> Self {
        let arguments = ["pkcs8", "-topk8", "-nocrypt"];
        let pkcs8 = kubernetes.tool("openssl", &arguments, pem).await.expect("a key");
        Self(EncodingKey::from_ec_pem(pkcs8.as_bytes()).expect("a key in PKCS#8"))
    }

    /// Signs what `token` says, changed.
    pub(crate) fn sign(&self, token: &str, change: impl FnOnce(&mut Value)) -> String {
        let claims = token.split('.').nth(1).expect("three parts");
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).expect("base64url");
        let mut claims: Value = serde_json::from_slice(&claims).expect("claims");
        change(&mut claims);
        let header = Header {
            kid: decode_header(token).expect("a header").kid,
            ..Header::new(Algorithm::ES256)
        };
        encode(&header, &claims, &self.0).expect("signed")
    }
}

/// A key that no cluster knows.
pub(crate) fn new_key() -> String {
    KeyPair::generate().expect("a key").serialize_pem()
}

/// Asks for another identity, and to be an authority.
pub(crate) fn greedy_csr() -> Vec<u8> {
    let key = KeyPair::generate().expect("a key");
    let mut params =
        CertificateParams::new(vec!["weft-control-plane.weft-system.svc".to_owned()]).expect("a name");
    let uri = "spiffe://mesh.test/ns/weft-system/sa/weft-control-plane";
    params
        .subject_alt_names
        .push(SanType::URI(uri.try_into().expect("ASCII")));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serialize_request(&key).expect("a request").der().to_vec()
}

/// A request for an RSA key of 16,384 bits. It is not signed by that key: nobody should find out.
pub(crate) fn rsa_16384_csr() -> Vec<u8> {
    const BYTES: usize = 16_384 / 8;
    const RSA: &[u8] = &[
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    const SHA256_RSA: &[u8] = &[
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00,
    ];
    let number = [&[0][..], &[0xc5; BYTES]].concat();
    let key = der(
        0x30,
        &[der(0x02, &number), vec![0x02, 0x03, 0x01, 0x00, 0x01]].concat(),
    );
    let key = der(0x30, &[der(0x30, RSA), bits(&key)].concat());
    let info = [vec![0x02, 0x01, 0x00], der(0x30, &[]), key, vec![0xa0, 0x00]].concat();
    der(
        0x30,
        &[der(0x30, &info), der(0x30, SHA256_RSA), bits(&[0x5a; BYTES])].concat(),
    )
}

/// One value in DER.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let length = if let Ok(short @ 0..0x80) = u8::try_from(length) {
        vec![short]
    } else {
        let bytes = u16::try_from(length).expect("less than 64 KiB").to_be_bytes();
        vec![0x82, bytes[0], bytes[1]]
    };
    [&[tag][..], &length, content].concat()
}

fn bits(content: &[u8]) -> Vec<u8> {
    der(0x03, &[&[0][..], content].concat())
}
