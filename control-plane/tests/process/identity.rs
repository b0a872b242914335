//! Who gets a certificate, and who may ask for what.

use tokio::net::TcpSocket;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use weft_control_plane::config::ACCOUNT;
use weft_control_plane::server::STRANGERS_MAX;
use weft_identity::tls::{self, Expected, alpn};
use weft_identity::token::{AUDIENCE, Claims, SigningKey};
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds_proto::types;
use weft_xds_proto::weft::registry_service_client::RegistryServiceClient;

use crate::client::{Site, connect, soon};

#[tokio::test]
async fn a_token_becomes_a_certificate() {
    let site = Site::start(&["--leaf-lifetime=60s"]).await;
    let leaf = site.leaf("user").await;
    assert_eq!(leaf.id().as_str(), "spiffe://cluster.local/ns/shop/sa/user");
    assert_eq!(leaf.lifetime().as_secs(), 60 + 600, "backdated by ten minutes");
    let stranger = SigningKey::generate().unwrap();
    let claims = Claims {
        namespace: "shop".into(),
        service_account: "user".into(),
        audience: AUDIENCE.into(),
        services: vec![],
        expires_at: std::time::SystemTime::now() + std::time::Duration::from_mins(1),
    };
    for token in [stranger.sign(&claims).unwrap(), "nonsense".into(), String::new()] {
        assert_eq!(site.sign(&token).await.unwrap_err().code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn nobody_is_given_the_control_planes_own_identity() {
    let site = Site::start(&[]).await;
    let (namespace, account) = ACCOUNT;
    let token = site.token_of(namespace, account, &[]);
    assert_eq!(
        site.sign(&token).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let neighbour = site.token_of("shop", account, &[]);
    assert!(site.sign(&neighbour).await.is_ok());
}

#[tokio::test]
async fn without_a_certificate_only_certificates_are_to_be_had() {
    let site = Site::start(&[]).await;
    let mut ads = AggregatedDiscoveryServiceClient::new(site.connect(None).await);
    let refused = soon(ads.delta_aggregated_resources(tokio_stream::empty())).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let refused = soon(ads.stream_aggregated_resources(tokio_stream::empty())).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let mut registry = RegistryServiceClient::new(site.connect(None).await);
    let (_sender, messages) = tokio::sync::mpsc::channel(1);
    let refused = soon(registry.register(ReceiverStream::new(messages))).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_certificate_of_another_root_is_no_certificate() {
    let (site, other) = (Site::start(&[]).await, Site::start(&[]).await);
    let leaf = other.leaf("user").await;
    let tls = tls::client_config(
        Some(&leaf),
        &site.bundle(),
        Expected::AnyOfTrustDomain,
        &[alpn::FOREIGN_H2],
    );
    // In TLS 1.3 the client learns of its refusal with the first answer.
    if let Ok(channel) = connect(site.address(), tls.unwrap()).await {
        let mut ads = AggregatedDiscoveryServiceClient::new(channel);
        let refused = soon(ads.delta_aggregated_resources(tokio_stream::empty())).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unknown);
    }
}

#[tokio::test]
async fn a_node_id_is_for_its_own_account() {
    let site = Site::start(&[]).await;
    let refused = [
        ("order", "shop/user-1"),
        ("order", "shop/sa/user"),
        ("user", "bank/sa/user"),
        ("user", "shop/nobody"),
        ("user", ""),
        ("user", "shop/../user-1"),
    ];
    for (account, node) in refused {
        let mut stream = site.delta(account, node, "weft").await;
        stream.subscribe(types::LISTENER, &["user"]).await;
        assert_eq!(
            stream.end().await.code(),
            Code::PermissionDenied,
            "{account} as {node:?}"
        );
    }
    let mut stream = site.delta("user", "shop/sa/user", "curl").await;
    stream.subscribe(types::LISTENER, &["user"]).await;
    assert_eq!(stream.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_stream_reads_its_own_and_no_more() {
    let site = Site::start(&[]).await;
    let refused = [
        (types::LISTENER, "inbound/shop/order-1"),
        (types::LISTENER, "inbound/shop/sa/user"),
        (types::LISTENER, "*"),
        (types::CLUSTER, "*"),
        (types::SECRET, "spiffe://other.domain"),
        (types::HINTS, "hints/shop/order-1"),
    ];
    for (kind, name) in refused {
        let mut stream = site.delta("user", "shop/user-1", "weft").await;
        stream.subscribe(kind, &[name]).await;
        assert_eq!(stream.end().await.code(), Code::PermissionDenied, "{name}");
    }
    let mut stream = site.delta("user", "shop/user-1", "weft").await;
    for (kind, name) in [
        (types::SECRET, "spiffe://cluster.local"),
        (types::LISTENER, "inbound/shop/user-1"),
        (types::HINTS, "hints/shop/user-1"),
    ] {
        stream.subscribe(kind, &[name]).await;
        assert_eq!(crate::client::names(&stream.next().await), [name]);
    }
}

#[tokio::test]
async fn one_address_of_strangers_cannot_keep_the_others_out() {
    weft_ops::descriptors::raise_limit();
    let site = Site::start(&[]).await;
    let mut crowd = Vec::new();
    for _ in 0..STRANGERS_MAX {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 2], 0).into()).expect("an address");
        crowd.push(socket.connect(site.address()).await.expect("a connection"));
    }
    let leaf = site.leaf("user").await;
    assert_eq!(leaf.id().service_account(), "user");
    drop(crowd);
}
