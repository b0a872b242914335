//! Workloads that register themselves.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use weft_xds_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use weft_xds_proto::types;
use weft_xds_proto::weft::register_request::Message;
use weft_xds_proto::weft::registry_service_client::RegistryServiceClient;
use weft_xds_proto::weft::{
    Health, RegisterRequest, RegisterResponse, RegisteredPort, Registration, Withdraw,
};

use crate::client::{Site, soon};

const USER: &str = "user.shop.svc.cluster.local:80";

struct Registered {
    messages: mpsc::Sender<RegisterRequest>,
    answers: Streaming<RegisterResponse>,
}

impl Registered {
    async fn say(&self, message: Message) {
        self.messages
            .send(RegisterRequest {
                message: Some(message),
            })
            .await
            .expect("an open stream");
    }
}

async fn register(site: &Site, account: &str, node: &str, grants: &[&str]) -> Result<Registered, Status> {
    let leaf = site.leaf(account).await;
    let mut client = RegistryServiceClient::new(site.connect(Some(&leaf)).await);
    let (messages, receiver) = mpsc::channel(4);
    let answers = soon(client.register(ReceiverStream::new(receiver)))
        .await?
        .into_inner();
    let mut registered = Registered { messages, answers };
    let registration = Registration {
        node_id: node.into(),
        token: site.token(account, grants),
        ports: vec![RegisteredPort {
            service: "user".into(),
            service_port: 80,
            listen_port: 4711,
        }],
        labels: [("app".to_owned(), "user".to_owned())].into(),
        zone: String::new(),
        healthy: true,
    };
    registered.say(Message::Registration(registration)).await;
    let answer = soon(registered.answers.message()).await?.expect("an answer");
    assert_eq!(answer.address, "127.0.0.1");
    Ok(registered)
}

/// Ports of the endpoints in a response.
fn ports(response: &DeltaDiscoveryResponse) -> Vec<u32> {
    use prost::Message as _;
    use weft_xds_proto::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
    use weft_xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    let body = &response.resources[0].resource.as_ref().expect("a body").value;
    let assignment = ClusterLoadAssignment::decode(body.as_slice()).expect("endpoints");
    let endpoints = assignment
        .endpoints
        .into_iter()
        .flat_map(|locality| locality.lb_endpoints);
    let port = endpoints.map(|endpoint| match endpoint.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => match endpoint.address.and_then(|one| one.address) {
            Some(Address::SocketAddress(socket)) => match socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => port,
                _ => 0,
            },
            _ => 0,
        },
        _ => 0,
    });
    port.collect()
}

#[tokio::test]
async fn a_registration_is_an_endpoint_for_as_long_as_it_is_healthy() {
    let site = Site::start(&[]).await;
    let mut stream = site.delta("user", "shop/user-1", "weft").await;
    stream.subscribe(types::ENDPOINTS, &[USER]).await;
    assert_eq!(ports(&stream.next().await), [0; 0]);
    let registered = register(&site, "user", "shop/user-9", &["user"]).await.unwrap();
    assert_eq!(ports(&stream.next().await), [4711]);
    registered.say(Message::Health(Health { healthy: false })).await;
    assert_eq!(ports(&stream.next().await), [0; 0]);
    registered.say(Message::Health(Health { healthy: true })).await;
    assert_eq!(ports(&stream.next().await), [4711]);
    registered.say(Message::Withdraw(Withdraw {})).await;
    assert_eq!(ports(&stream.next().await), [0; 0]);
}

#[tokio::test]
async fn a_lost_one_is_withdrawn_after_the_grace_period() {
    let site = Site::start(&["--registration-grace=1s"]).await;
    let mut stream = site.delta("user", "shop/user-1", "weft").await;
    let registered = register(&site, "user", "shop/user-9", &["user"]).await.unwrap();
    stream.subscribe(types::ENDPOINTS, &[USER]).await;
    assert_eq!(ports(&stream.next().await), [4711]);
    let lost = std::time::Instant::now();
    drop(registered);
    assert_eq!(ports(&stream.next().await), [0; 0]);
    assert!(lost.elapsed().as_secs() >= 1);
}

#[tokio::test]
async fn a_restart_withdraws_nothing() {
    let mut site = Site::start(&["--registration-grace=1h"]).await;
    let _registered = register(&site, "user", "shop/user-9", &["user"]).await.unwrap();
    site.restart().await;
    let mut stream = site.delta("user", "shop/user-9", "weft").await;
    stream.subscribe(types::ENDPOINTS, &[USER]).await;
    assert_eq!(ports(&stream.next().await), [4711]);
    let _again = register(&site, "user", "shop/user-9", &["user"]).await.unwrap();
}

#[tokio::test]
async fn a_service_has_to_be_granted_and_a_name_to_be_free() {
    let site = Site::start(&[]).await;
    let refused = |result: Result<Registered, Status>| result.err().map(|status| status.code());
    assert_eq!(
        refused(register(&site, "user", "shop/user-9", &[]).await),
        Some(Code::PermissionDenied)
    );
    assert_eq!(
        refused(register(&site, "user", "bank/user-9", &["user"]).await),
        Some(Code::PermissionDenied)
    );
    assert_eq!(
        refused(register(&site, "user", "user-9", &["user"]).await),
        Some(Code::InvalidArgument)
    );
    assert_eq!(
        refused(register(&site, "order", "shop/user-1", &["user"]).await),
        Some(Code::PermissionDenied)
    );
    let _registered = register(&site, "user", "shop/user-9", &["user"]).await.unwrap();
    assert_eq!(
        refused(register(&site, "order", "shop/user-9", &["user"]).await),
        Some(Code::PermissionDenied)
    );
}
