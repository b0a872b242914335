//! Clients of other make: gRPC by the state of the world, Envoy by wildcards.

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use weft_xds_proto::envoy::config::core::v3::Node;
use weft_xds_proto::envoy::config::listener::v3::Listener;
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use weft_xds_proto::google::protobuf::{Struct, Value, value};
use weft_xds_proto::types;

use crate::client::{Site, names, soon};

struct World {
    node: Node,
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl World {
    async fn open(site: &Site) -> Self {
        let leaf = site.leaf("user").await;
        let mut client = AggregatedDiscoveryServiceClient::new(site.connect(Some(&leaf)).await);
        let (requests, receiver) = mpsc::channel(16);
        let responses = soon(client.stream_aggregated_resources(ReceiverStream::new(receiver))).await;
        let node = Node {
            id: "shop/sa/user".into(),
            user_agent_name: "gRPC C-core".into(),
            ..Node::default()
        };
        Self {
            node,
            requests,
            responses: responses.expect("a stream").into_inner(),
        }
    }

    async fn ask(&self, type_url: &str, nonce: &str, names: &[&str]) {
        let request = DiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: type_url.into(),
            response_nonce: nonce.into(),
            resource_names: names.iter().copied().map(str::to_owned).collect(),
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.expect("an open stream");
    }

    async fn next(&mut self) -> DiscoveryResponse {
        soon(self.responses.message())
            .await
            .expect("a response")
            .expect("an open stream")
    }
}

fn listeners(response: &DiscoveryResponse) -> Vec<String> {
    let decoded = response
        .resources
        .iter()
        .map(|any| Listener::decode(any.value.as_slice()).expect("a listener"));
    decoded.map(|listener| listener.name).collect()
}

#[tokio::test]
async fn grpc_gets_names_as_it_asked_and_one_full_answer_per_stream() {
    let site = Site::start(&[]).await;
    for _ in 0..2 {
        let mut stream = World::open(&site).await;
        stream
            .ask(types::LISTENER, "", &["user", "user.shop:80", "missing"])
            .await;
        let response = stream.next().await;
        assert_eq!(listeners(&response), ["user", "user.shop:80"]);
        stream
            .ask(
                types::LISTENER,
                &response.nonce,
                &["user", "user.shop:80", "missing"],
            )
            .await;
        stream
            .ask(types::CLUSTER, "", &["user.shop.svc.cluster.local:80"])
            .await;
        let response = stream.next().await;
        assert_eq!(
            response.type_url,
            types::CLUSTER,
            "an acknowledgement isn't answered"
        );
    }
}

#[tokio::test]
async fn envoy_gets_one_listener_and_every_cluster() {
    let site = Site::start(&[]).await;
    let listen = Value {
        kind: Some(value::Kind::StringValue("127.0.0.1:15001".into())),
    };
    let metadata = Struct {
        fields: [("weft.dev/listen".to_owned(), listen)].into_iter().collect(),
    };
    let mut stream = site.delta("user", "shop/sa/user", "envoy").await;
    stream.introduce(metadata);
    stream.subscribe(types::CLUSTER, &["*"]).await;
    assert_eq!(names(&stream.next().await), ["user.shop.svc.cluster.local:80"]);
    stream.subscribe(types::LISTENER, &[]).await;
    let response = stream.next().await;
    assert_eq!(response.resources.len(), 1);
    let late = "
apiVersion: v1
kind: Service
metadata: {name: late, namespace: shop}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
";
    site.write("late.yaml", late);
    assert_eq!(names(&stream.next().await), ["late.shop.svc.cluster.local:80"]);
}
