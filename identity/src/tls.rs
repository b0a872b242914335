//! TLS between members of the mesh: 1.3 only, both sides authenticated, one crypto provider, one verifier.
//!
//! Names are SPIFFE ids, never DNS: a client says which ids it expects, a server takes any id of its trust domain and
//! leaves the rest to policy. No session is ever resumed, so that every connection stands on the leaves and roots of
//! its own moment. Key exchange prefers X25519MLKEM768, so that what is recorded today can't be read by a quantum
//! computer later.
//!
//! What is not here: sockets. A configuration is made here, the handshake is driven by its user.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError as RustlsCertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    Error, OtherError, PeerMisbehaved, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::bundle::TrustBundle;
use crate::certificate::{CertificateError, Details};
use crate::leaf::Leaf;
pub use crate::provider::provider;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Application protocols inside TLS. Ours tell mesh traffic from an application's own TLS on the same port.
pub mod alpn {
    /// HTTP/2 that sidecars share.
    pub const H2: &[u8] = b"weft-h2";
    /// Opaque bytes of one connection.
    pub const TCP: &[u8] = b"weft-tcp";
    /// One HTTP/1.1 exchange that may upgrade.
    pub const H1: &[u8] = b"weft-h1";
    /// HTTP/2 of clients that aren't ours and hold a mesh certificate (Envoy, gRPC), and of the control plane.
    pub const FOREIGN_H2: &[u8] = b"h2";
    /// HTTP/1.1 of clients that aren't ours and hold a mesh certificate.
    pub const FOREIGN_H1: &[u8] = b"http/1.1";
}

/// Most intermediates that a peer may send: bounds the work of finding a path.
const MAX_INTERMEDIATES: usize = 3;

/// Why a peer's certificate is refused although its chain may be good.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PeerError {
    /// It is no workload's certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A root of our domain vouched for another one.
    #[error("the peer is {id}, which is not of the trust domain {expected}")]
    TrustDomain {
        /// Who it says it is.
        id: SpiffeId,
        /// Whose roots were asked.
        expected: TrustDomain,
    },
    /// It is somebody, but not who should be there.
    #[error("the peer is {id}, expected was {expected}")]
    Unexpected {
        /// Who it is.
        id: SpiffeId,
        /// Who should be there.
        expected: String,
    },
    /// More certificates than a path may have.
    #[error("the peer sent {0} intermediate certificates, at most {MAX_INTERMEDIATES} are allowed")]
    TooManyIntermediates(usize),
}

/// A TLS configuration could not be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// rustls refused what it was given.
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] Error),
    /// A root of the bundle is unusable.
    #[error("a root of the trust bundle of {0} is unusable: {1}")]
    Root(TrustDomain, String),
}

/// Who a client expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Exactly one of these.
    Ids(BTreeSet<SpiffeId>),
    /// Anyone of the bundle's trust domain.
    AnyOfTrustDomain,
}

impl From<SpiffeId> for Expected {
    fn from(id: SpiffeId) -> Self {
        Self::Ids(BTreeSet::from([id]))
    }
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Without one there is no handshake.
    Required,
    /// It may have none; one that it shows must be good.
    Optional,
}

/// The name that a client hands to rustls, which wants one. It isn't sent and isn't checked.
pub fn unnamed() -> ServerName<'static> {
    // An address is never sent as a name.
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// How to dial: as `leaf`, or without a certificate, those of `bundle`'s domain that are `expected`.
pub fn client_config(
    leaf: Option<&Leaf>,
    bundle: &TrustBundle,
    expected: Expected,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = Verifier::new(bundle, expected, ClientAuth::Required)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match leaf {
        Some(leaf) => builder.with_client_cert_resolver(Arc::new(Own(leaf.certified()))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// How to accept: as `leaf`, those of `bundle`'s domain.
pub fn server_config(
    leaf: &Leaf,
    bundle: &TrustBundle,
    auth: ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = Verifier::new(bundle, Expected::AnyOfTrustDomain, auth)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Own(leaf.certified())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// How to accept anybody, without asking for a certificate, as whom `config` shows: for the API server, which has none.
pub fn server_config_for_anybody(
    config: &ServerConfig,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&config.cert_resolver));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// What the certificate of an authenticated peer says. For chains that a handshake with a configuration of this
/// module has already verified: the signature isn't checked again.
pub fn peer(certificates: &[CertificateDer<'_>]) -> Result<Details, CertificateError> {
    Details::read(certificates.first().ok_or(CertificateError::Missing)?)
}

/// Who an authenticated peer is; see [`peer`].
pub fn peer_identity(
    certificates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
) -> Result<SpiffeId, PeerError> {
    let id = peer(certificates)?.id;
    check_domain(&id, bundle.trust_domain())?;
    Ok(id)
}

/// Whether peers that hold `bundle` would accept `leaf` at `now`: to be asked of a new leaf before it is used.
pub fn vouches(bundle: &TrustBundle, leaf: &Leaf, now: SystemTime) -> Result<(), TlsError> {
    let verifier = Verifier::new(bundle, Expected::AnyOfTrustDomain, ClientAuth::Required)?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let [end_entity, intermediates @ ..] = leaf.chain() else {
        return Err(Error::NoCertificatesPresented.into());
    };
    let now = UnixTime::since_unix_epoch(since);
    Ok(verifier.verify(end_entity, intermediates, now, KeyUsage::server_auth())?)
}

fn check_domain(id: &SpiffeId, expected: &TrustDomain) -> Result<(), PeerError> {
    if id.trust_domain() == expected.as_str() {
        return Ok(());
    }
    Err(PeerError::TrustDomain {
        id: id.clone(),
        expected: expected.clone(),
    })
}

/// The one verifier: a path to a root of the bundle by webpki, then a workload's certificate, then the right one.
struct Verifier {
    trust_domain: TrustDomain,
    anchors: Vec<TrustAnchor<'static>>,
    expected: Expected,
    auth: ClientAuth,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(bundle: &TrustBundle, expected: Expected, auth: ClientAuth) -> Result<Self, TlsError> {
        let unusable =
            |error: webpki::Error| TlsError::Root(bundle.trust_domain().clone(), error.to_string());
        let anchor = |root| {
            anchor_from_trusted_cert(root)
                .map(|anchor| anchor.to_owned())
                .map_err(unusable)
        };
        Ok(Self {
            trust_domain: bundle.trust_domain().clone(),
            anchors: bundle.roots().iter().map(anchor).collect::<Result<_, _>>()?,
            expected,
            auth,
            provider: provider(),
        })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(refused(PeerError::TooManyIntermediates(intermediates.len())));
        }
        let certificate = EndEntityCert::try_from(leaf).map_err(path_error)?;
        certificate
            .verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                &self.anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(path_error)?;
        self.check(leaf).map_err(refused)
    }

    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), PeerError> {
        let id = Details::read(leaf)?.id;
        check_domain(&id, &self.trust_domain)?;
        match &self.expected {
            Expected::AnyOfTrustDomain => Ok(()),
            Expected::Ids(ids) if ids.contains(&id) => Ok(()),
            Expected::Ids(ids) => {
                let expected: Vec<&str> = ids.iter().map(SpiffeId::as_str).collect();
                Err(PeerError::Unexpected {
                    id,
                    expected: expected.join(" or "),
                })
            }
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

fn refused(error: PeerError) -> Error {
    Error::InvalidCertificate(RustlsCertificateError::Other(OtherError(Arc::new(error))))
}

fn path_error(error: webpki::Error) -> Error {
    use webpki::Error as Path;
    Error::InvalidCertificate(match error {
        Path::BadDer | Path::BadDerTime | Path::TrailingData(_) => RustlsCertificateError::BadEncoding,
        Path::CertExpired { time, not_after } => RustlsCertificateError::ExpiredContext { time, not_after },
        Path::CertNotValidYet { time, not_before } => {
            RustlsCertificateError::NotValidYetContext { time, not_before }
        }
        Path::UnknownIssuer => RustlsCertificateError::UnknownIssuer,
        Path::InvalidSignatureForPublicKey => RustlsCertificateError::BadSignature,
        other => RustlsCertificateError::Other(OtherError(Arc::new(other))),
    })
}

/// TLS 1.2 is not offered, so nothing of it can arrive.
fn no_tls12() -> Error {
    PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Always the same certificate, whatever the other side asks for.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests;
