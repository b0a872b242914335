//! A control plane in the test's hands: it signs as it is told, and hands every message and stream to the test.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, SanType,
};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use weft_identity::bundle::TrustBundle;
use weft_identity::leaf::{KeyPair, Leaf};
use weft_identity::tls::{self, ClientAuth, alpn};
use weft_xds_proto::envoy::service::discovery::v3 as discovery;
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server as ads;
use weft_xds_proto::weft as wire;
use weft_xds_proto::weft::certificate_service_server as certificates;
use weft_xds_proto::weft::registry_service_server as registry;

pub(crate) const CONTROL_PLANE: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";
pub(crate) const USER: &str = "spiffe://cluster.local/ns/shop/sa/user";
/// Longest wait for anything; only a failing test takes so long.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Ca {
    issuer: Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new("cluster.local".parse().unwrap(), vec![self.root.clone()]).unwrap()
    }

    fn sign(&self, id: &str, csr: &[u8], end: SystemTime) -> Vec<u8> {
        let csr = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = (SystemTime::now() - Duration::from_mins(10)).into();
        params.not_after = end.into();
        params
            .signed_by(&csr.public_key, &self.issuer)
            .unwrap()
            .der()
            .to_vec()
    }

    pub(crate) fn leaf(&self, id: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let signed = self.sign(
            id,
            &key.csr_der().unwrap(),
            SystemTime::now() + Duration::from_hours(1),
        );
        Leaf::new(vec![signed.into()], &key).unwrap()
    }
}

/// How the next requests for a certificate are answered.
#[derive(Clone, Debug)]
pub(crate) enum Signing {
    /// As asked, for so long.
    Good(Duration),
    /// With an end that lies in the past.
    Expired,
    /// For this identity.
    As(&'static str),
    /// For a key that nobody asked to sign.
    OtherKey,
    /// Bytes that are no certificate.
    Garbage,
    /// With roots that don't vouch for it.
    OtherRoots,
    /// With no roots at all.
    NoRoots,
    /// Not at all.
    Refuse,
}

/// What reaches the control plane.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A request for a certificate, with its `authorization`.
    Sign(String),
    /// A new registration stream; dropping the sender ends it.
    Register(mpsc::UnboundedSender<Result<wire::RegisterResponse, Status>>),
    /// A message on it.
    Registry(wire::register_request::Message),
    /// The end of its messages.
    RegistryEnd,
    /// A new configuration stream; dropping the sender ends it.
    Stream(mpsc::UnboundedSender<Result<discovery::DeltaDiscoveryResponse, Status>>),
    /// A request on it.
    Request(Box<discovery::DeltaDiscoveryRequest>),
}

#[derive(Clone)]
struct Services {
    ca: Arc<Ca>,
    signing: Arc<Mutex<Signing>>,
    seen: mpsc::UnboundedSender<Seen>,
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) ca: Arc<Ca>,
    signing: Arc<Mutex<Signing>>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Fake {
    /// A control plane that proves to be `id`.
    pub(crate) async fn start(id: &str) -> Self {
        let ca = Arc::new(Ca::new());
        let signing = Arc::new(Mutex::new(Signing::Good(Duration::from_hours(1))));
        let (sender, seen) = mpsc::unbounded_channel();
        let services = Services {
            ca: Arc::clone(&ca),
            signing: Arc::clone(&signing),
            seen: sender,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let alpn = &[alpn::FOREIGN_H2];
        let tls = tls::server_config(&ca.leaf(id), &ca.bundle(), ClientAuth::Optional, alpn).unwrap();
        let (accepted, incoming) = mpsc::channel(16);
        tokio::spawn(accept(listener, TlsAcceptor::from(tls), accepted));
        let server = Server::builder()
            .add_service(certificates::CertificateServiceServer::new(services.clone()))
            .add_service(registry::RegistryServiceServer::new(services.clone()))
            .add_service(ads::AggregatedDiscoveryServiceServer::new(services));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
        Self {
            address,
            ca,
            signing,
            seen,
        }
    }

    pub(crate) fn sign_so(&self, signing: Signing) {
        *self.signing.lock().unwrap() = signing;
    }

    /// The next thing that reaches it.
    pub(crate) async fn next(&mut self) -> Seen {
        let seen = tokio::time::timeout(PATIENCE, self.seen.recv()).await;
        seen.expect("something should have reached the control plane")
            .unwrap()
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, accepted: mpsc::Sender<io::Result<Connection>>) {
    while let Ok((tcp, _)) = listener.accept().await {
        // A client that refuses us is what some tests are about.
        if let Ok(stream) = tls.accept(tcp).await {
            accepted.send(Ok(Connection(stream))).await.unwrap();
        }
    }
}

#[tonic::async_trait]
impl certificates::CertificateService for Services {
    async fn sign(
        &self,
        request: Request<wire::SignRequest>,
    ) -> Result<Response<wire::SignResponse>, Status> {
        let token = request
            .metadata()
            .get("authorization")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        self.seen.send(Seen::Sign(token)).unwrap();
        let hour = SystemTime::now() + Duration::from_hours(1);
        let csr = request.into_inner().csr_der;
        let other_key = KeyPair::generate().unwrap().csr_der().unwrap();
        let (leaf, roots) = match self.signing.lock().unwrap().clone() {
            Signing::Good(life) => (
                self.ca.sign(USER, &csr, SystemTime::now() + life),
                vec![self.ca.root.to_vec()],
            ),
            Signing::Expired => {
                let end = SystemTime::now() - Duration::from_mins(1);
                (self.ca.sign(USER, &csr, end), vec![self.ca.root.to_vec()])
            }
            Signing::As(id) => (self.ca.sign(id, &csr, hour), vec![self.ca.root.to_vec()]),
            Signing::OtherKey => (self.ca.sign(USER, &other_key, hour), vec![self.ca.root.to_vec()]),
            Signing::Garbage => (vec![0x30, 0x82, 0xff], vec![self.ca.root.to_vec()]),
            Signing::OtherRoots => (self.ca.sign(USER, &csr, hour), vec![Ca::new().root.to_vec()]),
            Signing::NoRoots => (self.ca.sign(USER, &csr, hour), Vec::new()),
            Signing::Refuse => return Err(Status::unauthenticated("the token has expired")),
        };
        Ok(Response::new(wire::SignResponse {
            chain_der: vec![leaf],
            roots_der: roots,
        }))
    }
}

#[tonic::async_trait]
impl registry::RegistryService for Services {
    type RegisterStream = UnboundedReceiverStream<Result<wire::RegisterResponse, Status>>;

    async fn register(
        &self,
        request: Request<Streaming<wire::RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let (sender, responses) = mpsc::unbounded_channel();
        self.seen.send(Seen::Register(sender)).unwrap();
        let (seen, mut messages) = (self.seen.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                seen.send(Seen::Registry(message.message.unwrap())).unwrap();
            }
            // The test may have ended.
            let _ = seen.send(Seen::RegistryEnd);
        });
        Ok(Response::new(UnboundedReceiverStream::new(responses)))
    }
}

#[tonic::async_trait]
impl ads::AggregatedDiscoveryService for Services {
    type StreamAggregatedResourcesStream =
        UnboundedReceiverStream<Result<discovery::DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream =
        UnboundedReceiverStream<Result<discovery::DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("our proxy speaks delta"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, responses) = mpsc::unbounded_channel();
        self.seen.send(Seen::Stream(sender)).unwrap();
        let (seen, mut requests) = (self.seen.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                // The test may have ended.
                let _ = seen.send(Seen::Request(Box::new(request)));
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(responses)))
    }
}

/// A TLS connection, as tonic's server takes it.
struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
