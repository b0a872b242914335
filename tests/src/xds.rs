//! A client of the control plane that says exactly what a test tells it to: certificates, both variants of ADS, and
//! registration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};
use weft_identity::bundle::TrustBundle;
use weft_identity::leaf::{KeyPair, Leaf};
use weft_identity::spiffe::SpiffeId;
use weft_identity::tls::{self, Expected, alpn};
use weft_identity::token::{AUDIENCE, Claims, SigningKey};
use weft_xds_proto::envoy::config::core::v3::Node;
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use weft_xds_proto::google::protobuf::Any;
use weft_xds_proto::weft::certificate_service_client::CertificateServiceClient;
use weft_xds_proto::weft::register_request::Message;
use weft_xds_proto::weft::registry_service_client::RegistryServiceClient;
use weft_xds_proto::weft::{
    RegisterRequest, RegisterResponse, RegisteredPort, Registration, SignRequest, Withdraw,
};

use crate::mesh::Mesh;
use crate::process::PATIENCE;

/// Requests that may wait to be sent on a stream.
const REQUESTS_MAX: usize = 64;

/// The identity of the control plane itself.
pub const CONTROL_PLANE: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";

/// The answer, or a failed test.
pub async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("an answer in time")
}

/// A control plane to call: where it is, and which roots are trusted.
#[derive(Clone, Debug)]
pub struct Called {
    /// Where it serves xDS.
    pub address: SocketAddr,
    /// What vouches for it.
    pub roots: TrustBundle,
}

impl From<&Mesh> for Called {
    fn from(mesh: &Mesh) -> Self {
        let domain = "cluster.local".parse().expect("a trust domain");
        let file = mesh.state().join("trust-bundle.pem");
        Self {
            address: mesh.xds,
            roots: TrustBundle::load(domain, &file).expect("the control plane wrote it"),
        }
    }
}

/// What a good token of `account` (`namespace/name`) says; it grants `services`.
pub fn claims(account: &str, services: &[&str]) -> Claims {
    let (namespace, name) = account.split_once('/').expect("namespace/name");
    Claims {
        namespace: namespace.to_owned(),
        service_account: name.to_owned(),
        audience: AUDIENCE.to_owned(),
        services: services.iter().map(ToString::to_string).collect(),
        expires_at: SystemTime::now() + Duration::from_mins(10),
    }
}

/// Signs `claims` with the mesh's own key.
pub fn token(mesh: &Mesh, claims: &Claims) -> String {
    let key = SigningKey::load(&mesh.state().join("token-key.pem"))
        .expect("readable")
        .expect("a key");
    key.sign(claims).expect("a token")
}

/// Asks for a certificate with `token`.
pub async fn certify(called: impl Into<Called>, token: &str) -> Result<Leaf, Status> {
    let key = KeyPair::generate().expect("a key");
    let mut request = Request::new(SignRequest {
        csr_der: key.csr_der().expect("a request"),
    });
    let bearer = format!("Bearer {token}").parse().expect("a header");
    request.metadata_mut().insert("authorization", bearer);
    let mut client = CertificateServiceClient::new(channel(called, None).await);
    let signed = soon(client.sign(request)).await?.into_inner();
    Ok(Leaf::new(signed.chain_der.into_iter().map(Into::into).collect(), &key).expect("a leaf"))
}

/// A certificate of `account` (`namespace/name`).
pub async fn leaf(mesh: &Mesh, account: &str) -> Leaf {
    certify(mesh, &token(mesh, &claims(account, &[])))
        .await
        .expect("a certificate")
}

/// How a client with `leaf`, or with none, speaks to the control plane.
pub fn tls(called: impl Into<Called>, leaf: Option<&Leaf>) -> Arc<ClientConfig> {
    let id: SpiffeId = CONTROL_PLANE.parse().expect("an id");
    tls::client_config(
        leaf,
        &called.into().roots,
        Expected::from(id),
        &[alpn::FOREIGN_H2],
    )
    .expect("TLS")
}

/// TCP and TLS to the control plane.
pub async fn dial(
    called: impl Into<Called>,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(called.into().address).await?;
    TlsConnector::from(config).connect(tls::unnamed(), stream).await
}

/// A gRPC channel over one connection.
pub async fn channel(called: impl Into<Called>, leaf: Option<&Leaf>) -> Channel {
    let called = called.into();
    let config = tls(called.clone(), leaf);
    let stream = soon(dial(called, config))
        .await
        .expect("TLS with the control plane");
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once
            .take()
            .ok_or_else(|| std::io::Error::other("one connection is all"));
        async move { stream }
    });
    let endpoint = Endpoint::from_static("http://control-plane");
    endpoint
        .connect_with_connector(connector)
        .await
        .expect("HTTP/2 with the control plane")
}

/// A delta stream.
pub struct Delta {
    /// Said with the first request.
    node: Option<Node>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    /// Opens a stream with `leaf` that calls itself `node_id` and `user_agent`.
    pub async fn open(called: impl Into<Called>, leaf: &Leaf, node_id: &str, user_agent: &str) -> Self {
        let mut client = AggregatedDiscoveryServiceClient::new(channel(called, Some(leaf)).await);
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let responses = soon(client.delta_aggregated_resources(ReceiverStream::new(receiver))).await;
        let responses = responses.expect("a stream").into_inner();
        Self {
            node: Some(node(node_id, user_agent)),
            requests,
            responses,
        }
    }

    /// Sends a request; the first one says who it is.
    pub async fn send(&mut self, request: DeltaDiscoveryRequest) {
        let node = request.node.clone().or_else(|| self.node.take());
        // A stream that was refused meanwhile says so when it is read.
        let _ = self
            .requests
            .send(DeltaDiscoveryRequest { node, ..request })
            .await;
    }

    /// Subscribes.
    pub async fn subscribe(&mut self, type_url: &str, names: &[&str]) {
        self.send(subscription(type_url, names)).await;
    }

    /// The next response, acknowledged.
    pub async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next_unanswered().await;
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(ack).await;
        response
    }

    /// The next response.
    pub async fn next_unanswered(&mut self) -> DeltaDiscoveryResponse {
        soon(self.responses.message())
            .await
            .expect("a response")
            .expect("an open stream")
    }

    /// Asks for one resource that nobody told about before: its content, `None` when it doesn't exist.
    pub async fn read(&mut self, type_url: &str, name: &str) -> Option<Any> {
        self.subscribe(type_url, &[name]).await;
        let response = self.next().await;
        assert_eq!(response.type_url, type_url);
        response
            .resources
            .into_iter()
            .find(|resource| resource.name == name)?
            .resource
    }

    /// How the stream ends.
    pub async fn end(&mut self) -> Status {
        soon(self.responses.message())
            .await
            .expect_err("the stream is ended with a status")
    }
}

/// A subscription to `names`.
pub fn subscription(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.into(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A state-of-the-world stream.
pub struct World {
    node: Node,
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl World {
    /// Opens a stream with `leaf` that calls itself `node_id` and `user_agent`.
    pub async fn open(mesh: &Mesh, leaf: &Leaf, node_id: &str, user_agent: &str) -> Self {
        let mut client = AggregatedDiscoveryServiceClient::new(channel(mesh, Some(leaf)).await);
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let responses = soon(client.stream_aggregated_resources(ReceiverStream::new(receiver))).await;
        let responses = responses.expect("a stream").into_inner();
        Self {
            node: node(node_id, user_agent),
            requests,
            responses,
        }
    }

    /// Asks for `names`, answering `nonce`.
    pub async fn ask(&self, type_url: &str, nonce: &str, names: &[&str]) {
        let request = DiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: type_url.into(),
            response_nonce: nonce.into(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            ..DiscoveryRequest::default()
        };
        // A stream that was refused meanwhile says so when it is read.
        let _ = self.requests.send(request).await;
    }

    /// The next response.
    pub async fn next(&mut self) -> DiscoveryResponse {
        soon(self.responses.message())
            .await
            .expect("a response")
            .expect("an open stream")
    }

    /// How the stream ends.
    pub async fn end(&mut self) -> Status {
        soon(self.responses.message())
            .await
            .expect_err("the stream is ended with a status")
    }
}

fn node(id: &str, user_agent: &str) -> Node {
    Node {
        id: id.into(),
        user_agent_name: user_agent.into(),
        ..Node::default()
    }
}

/// A workload that registered, and stays so while this is held.
pub struct Registered {
    requests: mpsc::Sender<RegisterRequest>,
    responses: Streaming<RegisterResponse>,
}

impl Registered {
    /// Says goodbye, and waits until that was heard.
    pub async fn withdraw(mut self) {
        let message = Some(Message::Withdraw(Withdraw {}));
        self.requests
            .send(RegisterRequest { message })
            .await
            .expect("an open stream");
        while soon(self.responses.message())
            .await
            .is_ok_and(|message| message.is_some())
        {}
    }
}

/// A registration of `node_id` for Services' ports (`name:port`), which peers dial at the port beside.
pub fn registration(node_id: &str, token: &str, ports: &[(&str, u16)]) -> Registration {
    let port = |&(service, listen): &(&str, u16)| {
        let (name, port) = service.split_once(':').expect("name:port");
        RegisteredPort {
            service: name.to_owned(),
            service_port: port.parse().expect("a port"),
            listen_port: listen.into(),
        }
    };
    Registration {
        node_id: node_id.to_owned(),
        token: token.to_owned(),
        ports: ports.iter().map(port).collect(),
        healthy: true,
        ..Registration::default()
    }
}

/// Registers, and waits for the answer.
pub async fn register(mesh: &Mesh, leaf: &Leaf, registration: Registration) -> Result<Registered, Status> {
    let mut client = RegistryServiceClient::new(channel(mesh, Some(leaf)).await);
    let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
    let message = Some(Message::Registration(registration));
    requests
        .send(RegisterRequest { message })
        .await
        .expect("room for one");
    let mut responses = soon(client.register(ReceiverStream::new(receiver)))
        .await?
        .into_inner();
    soon(responses.message())
        .await?
        .ok_or_else(|| Status::internal("the stream ended without an answer"))?;
    Ok(Registered { requests, responses })
}
