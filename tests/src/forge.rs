//! Certificates that no control plane would issue, and TLS that shows them to anybody.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use weft_identity::tls::provider;

use crate::mesh::Mesh;

/// Who signs.
pub struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// The mesh's own, with the key from its state directory.
    pub fn of(mesh: &Mesh) -> Self {
        let key =
            std::fs::read_to_string(mesh.state().join("ca-key.pem")).expect("the control plane wrote it");
        Self::named_as(mesh, KeyPair::from_pem(&key).expect("a key"))
    }

    /// One that calls itself what the mesh's own does, and has another key.
    pub fn impostor_of(mesh: &Mesh) -> Self {
        Self::named_as(mesh, KeyPair::generate().expect("a key"))
    }

    fn named_as(mesh: &Mesh, key: KeyPair) -> Self {
        let root =
            std::fs::read_to_string(mesh.state().join("ca-cert.pem")).expect("the control plane wrote it");
        Self(Issuer::from_ca_cert_pem(&root, key).expect("a root"))
    }

    /// Signs what `params` say.
    pub fn sign(&self, params: &CertificateParams) -> Forged {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Forged {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        }
    }
}

/// A good leaf of `ids`, if that is exactly one.
pub fn workload(ids: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = ids
        .iter()
        .map(|id| SanType::URI((*id).try_into().expect("ASCII")))
        .collect();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = (SystemTime::now() - Duration::from_mins(10)).into();
    params.not_after = (SystemTime::now() + Duration::from_hours(1)).into();
    params
}

/// The same, over since a minute.
pub fn expired(id: &str) -> CertificateParams {
    let mut params = workload(&[id]);
    params.not_after = (SystemTime::now() - Duration::from_mins(1)).into();
    params
}

/// A chain with its key.
pub struct Forged {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Forged {
    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    /// A client that believes any server and shows this.
    pub fn client(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        client(Some(self), alpn)
    }

    /// A server that asks nobody and shows this.
    pub fn server(&self, alpn: &[u8]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.private())
            .expect("key and certificate match");
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }
}

/// A client that believes any server, with a certificate or without.
pub fn client(own: Option<&Forged>, alpn: &[u8]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match own {
        Some(own) => builder
            .with_client_auth_cert(own.chain.clone(), own.private())
            .expect("key and certificate match"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

/// Believes every certificate: what is under test is the other side.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
