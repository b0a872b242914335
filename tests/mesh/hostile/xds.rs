//! Bad input between control plane and proxies, in both directions: what a client may say that no client of ours says,
//! and a control plane that has lost its mind.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic::{Code, Response, Status, Streaming};
use weft_identity::leaf::Leaf;
use weft_identity::tls::alpn;
use weft_tests::app::Echo;
use weft_tests::client::{Ask, http1};
use weft_tests::forge::{Authority, workload};
use weft_tests::mesh::{Mesh, Sidecar, Spec, metrics};
use weft_tests::process::PATIENCE;
use weft_tests::xds::{
    CONTROL_PLANE, Delta, World, claims, dial, leaf, register, registration, soon, subscription, tls, token,
};
use weft_xds_proto::envoy::config::core::v3::Node;
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use weft_xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use weft_xds_proto::google::protobuf::Any;
use weft_xds_proto::types;

use super::assert_no_panic;
use crate::manifests::{SERVICES, split};

const USER: &str = "user.shop.svc.cluster.local:80";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const FULL: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const REGISTER: &str = "/weft.v1.RegistryService/Register";
const SIGN: &str = "/weft.v1.CertificateService/Sign";

/// One call whose body is what it is; answers the gRPC status, or none where the answer was no gRPC.
async fn call(mesh: &Mesh, leaf: &Leaf, path: &str, kind: &str, body: Vec<u8>) -> Option<Code> {
    let stream = soon(dial(mesh, tls(mesh, Some(leaf)))).await.expect("TLS");
    let (mut sender, connection) = client::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://control-plane{path}"))
        .header("content-type", kind)
        .header("te", "trailers");
    let request = request.body(Full::new(Bytes::from(body))).expect("a request");
    let response = soon(sender.send_request(request)).await.expect("an answer");
    let (head, body) = response.into_parts();
    let trailers = soon(body.collect())
        .await
        .ok()
        .and_then(|body| body.trailers().cloned())
        .unwrap_or_default();
    driver.abort();
    let status = head
        .headers
        .get("grpc-status")
        .or_else(|| trailers.get("grpc-status"))?;
    Some(Code::from_bytes(status.as_bytes()))
}

/// A message in gRPC's frame.
fn framed(flag: u8, length: usize, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).expect("32 bits");
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

#[tokio::test]
async fn calls_that_are_no_messages_are_refused() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let user = leaf(&mesh, "shop/user").await;
    let mut random = fastrand::Rng::with_seed(11);
    for path in [DELTA, FULL, REGISTER, SIGN] {
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(4_000).collect();
        for (what, body) in [
            ("noise", noise.clone()),
            ("noise in a frame", framed(0, noise.len(), &noise)),
            ("groups without end", framed(0, 4_000, &[0x0b; 4_000])),
            ("less than announced", framed(0, 100, b"ten bytes.")),
            ("more than is taken", framed(0, u32::MAX as usize, b"")),
            ("compressed by nothing", framed(1, 10, b"ten bytes.")),
            ("a bad flag", framed(7, 10, b"ten bytes.")),
        ] {
            let code = call(&mesh, &user, path, "application/grpc", body).await;
            assert!(
                code.is_some_and(|code| code != Code::Ok),
                "{what} to {path}: {code:?}"
            );
        }
        let code = call(&mesh, &user, path, "text/plain", framed(0, 0, b"")).await;
        assert_ne!(code, Some(Code::Ok), "{path}");
    }
    for path in [
        "/",
        "/weft.v1.RegistryService/Nothing",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let code = call(&mesh, &user, path, "application/grpc", framed(0, 0, b"")).await;
        assert_eq!(code, Some(Code::Unimplemented), "{path}");
    }
    assert_still_serves(&mesh, &user).await;
}

async fn assert_still_serves(mesh: &Mesh, leaf: &Leaf) {
    let mut stream = Delta::open(mesh, leaf, "shop/sa/user", "weft").await;
    assert!(stream.read(types::CLUSTER, USER).await.is_some());
    assert_no_panic(&metrics(mesh.status).await);
}

#[tokio::test]
async fn requests_that_go_too_far_end_their_stream() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let user = leaf(&mesh, "shop/user").await;
    let many: Vec<String> = (0..100_000)
        .map(|number| format!("s{number}.shop.svc.cluster.local:80"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = format!("{}.shop.svc.cluster.local:80", "x".repeat(600));
    for (what, kind, names, code) in [
        (
            "100 000 names",
            types::CLUSTER,
            &many[..],
            Code::ResourceExhausted,
        ),
        (
            "a long name",
            types::CLUSTER,
            &[long.as_str()],
            Code::InvalidArgument,
        ),
        ("an empty name", types::CLUSTER, &[""], Code::InvalidArgument),
        ("no type", "", &[USER], Code::InvalidArgument),
        (
            "another type",
            "type.googleapis.com/envoy.config.cluster.v2.Cluster",
            &[USER],
            Code::InvalidArgument,
        ),
    ] {
        let mut delta = Delta::open(&mesh, &user, "shop/sa/user", "weft").await;
        delta.subscribe(kind, names).await;
        assert_eq!(delta.end().await.code(), code, "{what}");
        let mut world = World::open(&mesh, &user, "shop/sa/user", "gRPC").await;
        world.ask(kind, "", names).await;
        assert_eq!(world.end().await.code(), code, "{what}");
    }
    // Nobody said who it is.
    let mut nobody = Delta::open(&mesh, &user, "", "").await;
    let request = DeltaDiscoveryRequest {
        node: Some(Node::default()),
        ..subscription(types::CLUSTER, &[USER])
    };
    nobody.send(request).await;
    assert_eq!(nobody.end().await.code(), Code::PermissionDenied);
    // Registrations that make no sense.
    let grant = token(&mesh, &claims("shop/user", &["user"]));
    let ports = |count: u16| vec![("user:80", 1); count.into()];
    let mut odd = registration("shop/user-0", &grant, &[("user:80", 1)]);
    odd.ports[0].listen_port = 70_000;
    for (what, registration, code) in [
        (
            "no port",
            registration("shop/user-0", &grant, &[]),
            Code::InvalidArgument,
        ),
        ("a port that is none", odd, Code::InvalidArgument),
        (
            "port 0",
            registration("shop/user-0", &grant, &[("user:80", 0)]),
            Code::InvalidArgument,
        ),
        (
            "many ports",
            registration("shop/user-0", &grant, &ports(1_000)),
            Code::ResourceExhausted,
        ),
        (
            "no node id",
            registration("", &grant, &ports(1)),
            Code::InvalidArgument,
        ),
        (
            "a path as node id",
            registration("shop/../user", &grant, &ports(1)),
            Code::InvalidArgument,
        ),
    ] {
        let refused = register(&mesh, &user, registration).await.map(drop);
        assert_eq!(refused.unwrap_err().code(), code, "{what}");
    }
    assert_still_serves(&mesh, &user).await;
}

#[tokio::test]
async fn nonces_out_of_order_confuse_nobody() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let user = leaf(&mesh, "shop/user").await;
    let ack = |kind: &str, nonce: &str| DeltaDiscoveryRequest {
        type_url: kind.into(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    };
    let mut stream = Delta::open(&mesh, &user, "shop/sa/user", "weft").await;
    let mut nonces = Vec::new();
    for kind in [types::CLUSTER, types::ENDPOINTS, types::LISTENER] {
        stream.subscribe(kind, &[USER]).await;
        nonces.push((kind, stream.next_unanswered().await.nonce));
    }
    // Backwards, twice, of another type, of no response, of no number.
    for (kind, nonce) in nonces.iter().rev().chain(&nonces) {
        stream.send(ack(kind, nonce)).await;
        stream.send(ack(types::ROUTE, nonce)).await;
    }
    for nonce in ["0", "99999", "18446744073709551616", "-1", "x", "\u{1f9f5}"] {
        stream.send(ack(types::CLUSTER, nonce)).await;
    }
    stream
        .send(DeltaDiscoveryRequest {
            resource_names_unsubscribe: vec!["never.asked.for".into(), USER.into(), USER.into()],
            ..ack(types::CLUSTER, "")
        })
        .await;
    let answered = stream.read(types::CLUSTER, USER).await;
    assert!(answered.is_some(), "asked for again, and sent again");

    let mut world = World::open(&mesh, &user, "shop/sa/user", "gRPC").await;
    world.ask(types::CLUSTER, "17", &[USER]).await;
    let first = world.next().await;
    for nonce in ["99", "", "x", &first.nonce, &first.nonce] {
        world.ask(types::CLUSTER, nonce, &[USER]).await;
    }
    world.ask(types::ENDPOINTS, "", &[USER]).await;
    loop {
        let response = world.next().await;
        if response.type_url == types::ENDPOINTS {
            break;
        }
    }
    assert_still_serves(&mesh, &user).await;
}

/// A delta stream as its server sees it.
struct Conversation {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

/// A control plane that says what a test tells it to.
#[derive(Clone)]
struct Mad(mpsc::Sender<Conversation>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Mad {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _request: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, receiver) = mpsc::channel(64);
        let conversation = Conversation {
            requests: request.into_inner(),
            responses,
        };
        // A test that has ended listens no more.
        let _ = self.0.send(conversation).await;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Mad {
    /// Takes the place of the control plane, with a certificate that the mesh believes.
    async fn start(
        mesh: &Mesh,
        address: SocketAddr,
    ) -> (tokio::task::JoinHandle<()>, mpsc::Receiver<Conversation>) {
        let (sender, conversations) = mpsc::channel(64);
        let tls = Authority::of(mesh)
            .sign(&workload(&[CONTROL_PLANE]))
            .server(alpn::FOREIGN_H2);
        let listener = TcpListener::bind(address).await.expect("the port is free again");
        let routes = Routes::new(AggregatedDiscoveryServiceServer::new(Self(sender))).prepare();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, routes) = (TlsAcceptor::from(tls.clone()), routes.clone());
                connections.spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    let answer = service_fn(move |request| routes.clone().call(request));
                    // A client that goes is the end of it.
                    let _ = server::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
        });
        (task, conversations)
    }
}

impl Conversation {
    /// The client's answer to `nonce`; `None`: it ended the stream instead.
    async fn answer(&mut self, nonce: &str) -> Option<DeltaDiscoveryRequest> {
        loop {
            let request = soon(self.requests.message()).await.ok().flatten()?;
            if request.response_nonce == nonce {
                return Some(request);
            }
        }
    }
}

/// A resource sent as `name` whose body is `value`.
fn resource(name: &str, type_url: &str, value: Vec<u8>) -> Resource {
    let resource = Some(Any {
        type_url: type_url.into(),
        value,
    });
    Resource {
        name: name.into(),
        version: "mad".into(),
        resource,
        ..Resource::default()
    }
}

/// Responses that nobody can use.
fn bad_responses(random: &mut fastrand::Rng) -> Vec<DeltaDiscoveryResponse> {
    use weft_xds_proto::envoy::config::cluster::v3::Cluster;
    use weft_xds_proto::envoy::config::listener::v3::Listener;
    use weft_xds_proto::envoy::config::route::v3::RouteConfiguration;
    let other = || "other.shop.svc.cluster.local:80".to_owned();
    let mut bad = Vec::new();
    for kind in [
        types::LISTENER,
        types::ROUTE,
        types::CLUSTER,
        types::ENDPOINTS,
        types::SECRET,
    ] {
        let name = if kind == types::SECRET {
            "spiffe://cluster.local"
        } else {
            USER
        };
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(1_000).collect();
        bad.push((kind, resource(name, kind, noise)));
        bad.push((kind, resource(name, kind, vec![0x0b; 10_000])));
        bad.push((kind, resource(name, types::HINTS, Vec::new())));
        bad.push((
            kind,
            Resource {
                resource: None,
                ..resource(name, kind, Vec::new())
            },
        ));
        bad.push((kind, resource(name, kind, vec![b' '; 5 << 20])));
    }
    let listener = Listener {
        name: USER.into(),
        ..Listener::default()
    };
    let route = RouteConfiguration {
        name: other(),
        ..RouteConfiguration::default()
    };
    let cluster = Cluster {
        name: other(),
        ..Cluster::default()
    };
    bad.push((
        types::LISTENER,
        resource(USER, types::LISTENER, listener.encode_to_vec()),
    ));
    bad.push((types::ROUTE, resource(USER, types::ROUTE, route.encode_to_vec())));
    bad.push((
        types::CLUSTER,
        resource(USER, types::CLUSTER, cluster.encode_to_vec()),
    ));
    let response = |(number, (kind, resource)): (usize, (&str, Resource))| DeltaDiscoveryResponse {
        type_url: kind.into(),
        nonce: format!("mad-{number}"),
        resources: vec![resource],
        ..DeltaDiscoveryResponse::default()
    };
    bad.into_iter().enumerate().map(response).collect()
}

async fn assert_served(client: &Sidecar, what: &str) {
    let answer = http1(client.outbound, Ask::get("http://user/"))
        .await
        .expect("answers");
    assert_eq!(answer.text(), "user-0", "after {what}: {answer:?}");
}

#[tokio::test]
async fn a_mad_control_plane_is_contradicted_and_changes_nothing() {
    let mut mesh = Mesh::start(&[("services.yaml", SERVICES), ("routes.yaml", &split(1, 0))], &[]).await;
    let (user, cart) = (Echo::start("user-0").await, Echo::start("cart-0").await);
    let spec = |name: &str, address| {
        Spec::new("shop", name, &format!("{name}-0")).serves(&format!("{name}:80"), address)
    };
    let _user = mesh.sidecar(&spec("user", user.address)).await;
    let _cart = mesh.sidecar(&spec("cart", cart.address)).await;
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;
    assert_served(&client, "nothing").await;

    mesh.control_plane.kill().await;
    let (mad, mut conversations) = Mad::start(&mesh, mesh.xds).await;
    let mut order = loop {
        let mut one = soon(conversations.recv()).await.expect("a sidecar comes back");
        let first = soon(one.requests.message())
            .await
            .expect("a request")
            .expect("a request");
        // The servers' sidecars may wait.
        if first.node.is_some_and(|node| node.id == "shop/sa/order") {
            break one;
        }
    };
    for response in bad_responses(&mut fastrand::Rng::with_seed(13)) {
        let nonce = response.nonce.clone();
        let what = format!(
            "{nonce}: {} {:?}",
            response.type_url,
            response.resources[0].resource.as_ref().map(|any| any.value.len())
        );
        order
            .responses
            .send(Ok(response))
            .await
            .expect("the stream is open");
        let answer = order
            .answer(&nonce)
            .await
            .unwrap_or_else(|| panic!("{what}: no answer"));
        let refused = answer
            .error_detail
            .unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(!refused.message.is_empty(), "{what}");
        assert_served(&client, &what).await;
    }
    assert!(
        client
            .metrics()
            .await
            .lines()
            .any(|line| line.starts_with("weft_xds_nacks_total") && !line.ends_with(" 0"))
    );

    // Nonsense about the stream itself: whatever the client makes of it, it goes on and comes back.
    let unknown = DeltaDiscoveryResponse {
        type_url: "mad".into(),
        nonce: "mad".into(),
        ..Default::default()
    };
    let empty = DeltaDiscoveryResponse::default();
    for response in [unknown, empty] {
        // The stream may have ended over the one before.
        let _ = order.responses.send(Ok(response)).await;
    }
    let _ = order.responses.send(Err(Status::internal("mad"))).await;
    drop(order);
    assert_served(&client, "nonsense").await;

    // The real one comes back, and is believed.
    mad.abort();
    drop(conversations);
    let _ = mad.await;
    mesh.restart_control_plane().await;
    mesh.write_manifest("routes.yaml", &split(0, 1));
    let started = Instant::now();
    while http1(client.outbound, Ask::get("http://user/"))
        .await
        .expect("answers")
        .text()
        != "cart-0"
    {
        assert!(started.elapsed() < PATIENCE, "{}", client.process.log());
    }
    assert_no_panic(&client.metrics().await);
}
