//! A control plane with a folder of its own, and a client for it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Parser;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};
use weft_control_plane::app::ControlPlane;
use weft_control_plane::config::{Args, Config};
use weft_identity::bundle::TrustBundle;
use weft_identity::leaf::{KeyPair, Leaf};
use weft_identity::spiffe::SpiffeId;
use weft_identity::tls::{self, Expected, alpn};
use weft_identity::token::{AUDIENCE, Claims, SigningKey};
use weft_xds_proto::envoy::config::core::v3::Node;
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_xds_proto::google::protobuf::Struct;
use weft_xds_proto::weft::SignRequest;
use weft_xds_proto::weft::certificate_service_client::CertificateServiceClient;

/// What no answer of a healthy control plane takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The answer, or a failed test.
pub(crate) async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("an answer in time")
}

/// A control plane that can be stopped and started again on its state.
pub(crate) struct Site {
    folder: TempDir,
    running: Option<ControlPlane>,
    flags: Vec<String>,
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

/// The manifests that every test begins with.
const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: user, namespace: shop}
spec:
  selector: {app: user}
  ports: [{name: http, port: 80, appProtocol: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: user-1, namespace: shop, labels: {app: user}}
spec:
  serviceAccountName: user
  containers: [{name: app, image: user, ports: [{containerPort: 8080}]}]
status: {podIP: 10.0.0.1}
";

impl Site {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("manifests")).expect("a folder");
        let flags = flags.iter().copied().map(str::to_owned).collect();
        let mut site = Self {
            folder,
            running: None,
            flags,
        };
        site.write("base.yaml", MANIFESTS);
        site.run().await;
        site
    }

    async fn run(&mut self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut line = vec!["test".to_owned()];
        line.extend([
            "--manifests".to_owned(),
            path("manifests"),
            "--state-dir".to_owned(),
            path("state"),
        ]);
        for flag in ["--listen", "--status", "--admin"] {
            line.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
        }
        line.extend(self.flags.iter().cloned());
        let config = Config::parse(&Command::parse_from(line).args).expect("good settings");
        let log = weft_ops::log::init("warn").expect("a log");
        let recorder = weft_ops::recorder::install().expect("a recorder");
        let running = ControlPlane::start(&config, log, recorder)
            .await
            .expect("a control plane");
        soon(running.health.ready()).await;
        self.running = Some(running);
    }

    pub(crate) async fn restart(&mut self) {
        if let Some(running) = self.running.take() {
            soon(running.stop()).await;
        }
        self.run().await;
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let folder = self.folder.path().join("manifests");
        let beside = self.folder.path().join(file);
        fs::write(&beside, text).expect("a file");
        fs::rename(beside, folder.join(file)).expect("a file");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("it runs").addresses.xds
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.running.as_ref().expect("it runs").addresses.admin
    }

    fn state(&self, file: &str) -> PathBuf {
        self.folder.path().join("state").join(file)
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        let domain = "cluster.local".parse().expect("a trust domain");
        TrustBundle::load(domain, &self.state("trust-bundle.pem")).expect("a bundle")
    }

    pub(crate) fn token(&self, account: &str, services: &[&str]) -> String {
        self.token_of("shop", account, services)
    }

    pub(crate) fn token_of(&self, namespace: &str, account: &str, services: &[&str]) -> String {
        let key = SigningKey::load(&self.state("token-key.pem"))
            .expect("a key")
            .expect("a key");
        let claims = Claims {
            namespace: namespace.into(),
            service_account: account.into(),
            audience: AUDIENCE.into(),
            services: services.iter().copied().map(str::to_owned).collect(),
            expires_at: SystemTime::now() + Duration::from_mins(10),
        };
        key.sign(&claims).expect("a token")
    }

    /// A connection, as `leaf` or as nobody in particular.
    pub(crate) async fn connect(&self, leaf: Option<&Leaf>) -> Channel {
        let id: SpiffeId = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane"
            .parse()
            .expect("an id");
        let tls = tls::client_config(leaf, &self.bundle(), Expected::from(id), &[alpn::FOREIGN_H2]);
        connect(self.address(), tls.expect("TLS"))
            .await
            .expect("a connection")
    }

    /// Asks for a certificate.
    pub(crate) async fn sign(&self, token: &str) -> Result<Leaf, Status> {
        let key = KeyPair::generate().expect("a key");
        let mut request = Request::new(SignRequest {
            csr_der: key.csr_der().expect("a request"),
        });
        let bearer = format!("Bearer {token}").parse().expect("a header");
        request.metadata_mut().insert("authorization", bearer);
        let mut client = CertificateServiceClient::new(self.connect(None).await);
        let signed = soon(client.sign(request)).await?.into_inner();
        assert_eq!(signed.roots_der.len(), 1);
        Ok(Leaf::new(signed.chain_der.into_iter().map(Into::into).collect(), &key).expect("a leaf"))
    }

    pub(crate) async fn leaf(&self, account: &str) -> Leaf {
        self.sign(&self.token(account, &[])).await.expect("a certificate")
    }

    /// A delta stream of `node_id` with the certificate of `account`.
    pub(crate) async fn delta(&self, account: &str, node_id: &str, user_agent: &str) -> Delta {
        let leaf = self.leaf(account).await;
        let mut client = AggregatedDiscoveryServiceClient::new(self.connect(Some(&leaf)).await);
        let (requests, receiver) = mpsc::channel(16);
        let responses = soon(client.delta_aggregated_resources(ReceiverStream::new(receiver))).await;
        let node = Node {
            id: node_id.into(),
            user_agent_name: user_agent.into(),
            ..Node::default()
        };
        Delta {
            node: Some(node),
            requests,
            responses: responses.expect("a stream").into_inner(),
        }
    }
}

/// TCP, TLS, HTTP/2.
pub(crate) async fn connect(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
) -> Result<Channel, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(tls).connect(tls::unnamed(), stream).await?;
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once
            .take()
            .ok_or_else(|| std::io::Error::other("one connection is all"));
        async move { stream }
    });
    Ok(Endpoint::from_static("http://control-plane")
        .connect_with_connector(connector)
        .await?)
}

/// A delta stream.
pub(crate) struct Delta {
    /// Said with the first request.
    node: Option<Node>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    /// Adds what the first request says about the client.
    pub(crate) fn introduce(&mut self, metadata: Struct) {
        self.node.as_mut().expect("nothing was sent yet").metadata = Some(metadata);
    }

    pub(crate) async fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = self.node.take();
        self.requests.send(request).await.expect("an open stream");
    }

    pub(crate) async fn subscribe(&mut self, type_url: &str, names: &[&str]) {
        self.send(subscription(type_url, names)).await;
    }

    /// The next response, acknowledged.
    pub(crate) async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next_unanswered().await;
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(ack).await;
        response
    }

    pub(crate) async fn next_unanswered(&mut self) -> DeltaDiscoveryResponse {
        soon(self.responses.message())
            .await
            .expect("a response")
            .expect("an open stream")
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Status {
        soon(self.responses.message())
            .await
            .expect_err("the stream is ended")
    }
}

pub(crate) fn subscription(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.into(),
        resource_names_subscribe: names.iter().copied().map(str::to_owned).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

pub(crate) fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}
