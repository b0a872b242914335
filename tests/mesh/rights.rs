//! Who may read and say what to the control plane: real certificates and tokens, and clients that claim too much.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use weft_identity::leaf::Leaf;
use weft_identity::token::{Claims, SigningKey};
use weft_proxy::xds::decode::decode;
use weft_proxy_core::resource::{Action, Inbound, ListenerBody, Resource, Target};
use weft_tests::mesh::Mesh;
use weft_tests::xds::{Delta, World, certify, channel, claims, leaf, register, registration, soon, token};
use weft_xds_proto::envoy::config::core::v3::Node;
use weft_xds_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds_proto::types;
use weft_xds_proto::weft::registry_service_client::RegistryServiceClient;

use crate::manifests::SERVICES;

const USER: &str = "user.shop.svc.cluster.local:80";

/// Namespace `bank`, whose own clients of `user` are sent to its `ledger`: a consumer route.
const BANK: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: bank}
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: bank}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: detour, namespace: bank}
spec:
  parentRefs: [{group: '', kind: Service, name: user, namespace: shop}]
  rules:
  - backendRefs: [{name: ledger, port: 80}]
";

async fn mesh() -> Mesh {
    Mesh::start(&[("services.yaml", SERVICES), ("bank.yaml", BANK)], &[]).await
}

/// What a stream reads under a name, as the proxy understands it.
async fn read(stream: &mut Delta, type_url: &str, name: &str) -> Option<Resource> {
    let any = stream.read(type_url, name).await?;
    Some(decode(name, &any).expect("what the control plane sends is good"))
}

/// A destination as one client sees it.
#[derive(Debug, PartialEq)]
struct View(BTreeMap<&'static str, Option<Resource>>);

impl View {
    async fn of(stream: &mut Delta, name: &str) -> Self {
        let mut view = BTreeMap::new();
        for kind in [types::LISTENER, types::ROUTE, types::CLUSTER, types::ENDPOINTS] {
            view.insert(kind, read(stream, kind, name).await);
        }
        Self(view)
    }

    /// Where the first rule of its routes sends requests.
    fn target(&self) -> &str {
        let Some(Resource::Routes(routes)) = &self.0[types::ROUTE] else {
            panic!("no routes in {self:?}")
        };
        let Action::Forward(backends) = &routes.rules[0].action else {
            panic!("{routes:?}")
        };
        let Target::Cluster(name) = &backends[0].target else {
            panic!("{backends:?}")
        };
        name
    }
}

/// The ports of a workload's own inbound listener.
async fn own_ports(stream: &mut Delta, node: &str) -> Inbound {
    let read = read(stream, types::LISTENER, &format!("inbound/{node}")).await;
    match read.expect("it has one") {
        Resource::Listener(listener) => match listener.body {
            ListenerBody::Inbound(inbound) => inbound,
            ListenerBody::Outbound { .. } => panic!("{listener:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_reads_its_own_view() {
    let mesh = mesh().await;
    let [user, order, teller] = [
        leaf(&mesh, "shop/user").await,
        leaf(&mesh, "shop/order").await,
        leaf(&mesh, "bank/teller").await,
    ];
    let grant = |account, service| token(&mesh, &claims(account, &[service]));
    let served = registration("shop/user-0", &grant("shop/user", "user"), &[("user:80", 4001)]);
    let _user = register(&mesh, &user, served).await.expect("granted");
    let served = registration("shop/order-0", &grant("shop/order", "cart"), &[("cart:80", 4002)]);
    let _order = register(&mesh, &order, served).await.expect("granted");

    let mut user = Delta::open(&mesh, &user, "shop/user-0", "weft").await;
    let mut order = Delta::open(&mesh, &order, "shop/order-0", "weft").await;
    let mut teller = Delta::open(&mesh, &teller, "bank/sa/teller", "weft").await;

    // Outbound: one view per namespace, however many accounts it has.
    let seen = [
        View::of(&mut user, USER).await,
        View::of(&mut order, USER).await,
        View::of(&mut teller, USER).await,
    ];
    assert_eq!(seen[0], seen[1], "one namespace, one view");
    assert_eq!(
        (seen[0].target(), seen[2].target()),
        (USER, "ledger.bank.svc.cluster.local:80")
    );
    for kind in [types::CLUSTER, types::ENDPOINTS] {
        assert!(seen[0].0[kind].is_some(), "{kind}");
        assert_eq!(
            seen[0].0[kind], seen[2].0[kind],
            "only routes differ between namespaces"
        );
    }

    // Inbound: each its own, and what it holds is its own too.
    let (user_ports, order_ports) = (
        own_ports(&mut user, "shop/user-0").await,
        own_ports(&mut order, "shop/order-0").await,
    );
    assert_eq!(user_ports.ports.keys().collect::<Vec<_>>(), [&4001]);
    assert_eq!(user_ports.ports[&4001].service.as_deref(), Some(USER));
    assert_eq!(order_ports.ports.keys().collect::<Vec<_>>(), [&4002]);
    assert_eq!(
        order_ports.ports[&4002].service.as_deref(),
        Some("cart.shop.svc.cluster.local:80")
    );
}

/// A stream as `leaf` that says it is `node`, and then asks for `name`.
async fn refusal(mesh: &Mesh, leaf: &Leaf, node: &str, agent: &str, kind: &str, name: &str) -> [Code; 2] {
    let mut delta = Delta::open(mesh, leaf, node, agent).await;
    delta.subscribe(kind, &[name]).await;
    let mut world = World::open(mesh, leaf, node, agent).await;
    world.ask(kind, "", &[name]).await;
    [delta.end().await.code(), world.end().await.code()]
}

const DENIED: [Code; 2] = [Code::PermissionDenied; 2];

#[tokio::test]
async fn whoever_claims_to_be_another_is_refused() {
    let mesh = mesh().await;
    let [user, teller] = [leaf(&mesh, "shop/user").await, leaf(&mesh, "bank/teller").await];
    let owned = registration(
        "shop/user-0",
        &token(&mesh, &claims("shop/user", &["user"])),
        &[("user:80", 4001)],
    );
    let _user = register(&mesh, &user, owned).await.expect("granted");
    let order = leaf(&mesh, "shop/order").await;
    for (leaf, node, agent) in [
        (&order, "shop/user-0", "weft"),
        (&order, "shop/sa/user", "weft"),
        (&order, "shop/nobody-0", "weft"),
        (&teller, "shop/user-0", "weft"),
        (&teller, "shop/sa/teller", "weft"),
        (&teller, "bank/sa/user", "weft"),
        (&user, "bank/sa/user", "weft"),
        (&user, "bank/user-0", "weft"),
        (&user, "shop/../shop/user-0", "weft"),
        (&user, "", "weft"),
        (&user, "shop/user-0", "curl"),
        (&user, "shop/user-0", ""),
    ] {
        let refused = refusal(&mesh, leaf, node, agent, types::LISTENER, USER).await;
        assert_eq!(refused, DENIED, "{} as {node:?} with {agent:?}", leaf.id());
    }
}

#[tokio::test]
async fn what_is_anothers_is_refused_at_any_time() {
    let mesh = mesh().await;
    let user = leaf(&mesh, "shop/user").await;
    let order = leaf(&mesh, "shop/order").await;
    let grant = token(&mesh, &claims("shop/order", &["cart"]));
    let _order = register(
        &mesh,
        &order,
        registration("shop/order-0", &grant, &[("cart:80", 4002)]),
    )
    .await;
    let foreign = [
        (types::LISTENER, "inbound/shop/order-0"),
        (types::LISTENER, "inbound/shop/nobody-0"),
        (types::LISTENER, "inbound/"),
        (types::HINTS, "hints/shop/order-0"),
        (types::HINTS, "shop/sa/user"),
        (types::SECRET, "spiffe://bank.local"),
        (types::SECRET, "default"),
    ];
    for (kind, name) in foreign {
        assert_eq!(
            refusal(&mesh, &user, "shop/sa/user", "weft", kind, name).await,
            DENIED,
            "{name}"
        );
        // A stream that was good so far is no better.
        let mut stream = Delta::open(&mesh, &user, "shop/sa/user", "weft").await;
        assert!(read(&mut stream, types::CLUSTER, USER).await.is_some());
        stream.subscribe(kind, &[USER, name]).await;
        assert_eq!(stream.end().await.code(), Code::PermissionDenied, "{name}");
    }
    // Everything, by a client that has to name what it wants.
    for kind in [types::LISTENER, types::CLUSTER] {
        let mut stream = Delta::open(&mesh, &user, "shop/sa/user", "weft").await;
        stream.subscribe(kind, &["*"]).await;
        assert_eq!(stream.end().await.code(), Code::PermissionDenied, "{kind}");
    }
    // Another node in the middle of a stream, though of the same account.
    let mut stream = Delta::open(&mesh, &user, "shop/sa/user", "weft").await;
    assert!(read(&mut stream, types::CLUSTER, USER).await.is_some());
    let node = Some(Node {
        id: "shop/sa/order".into(),
        ..Node::default()
    });
    stream
        .send(DeltaDiscoveryRequest {
            node,
            type_url: types::CLUSTER.into(),
            ..Default::default()
        })
        .await;
    assert_eq!(stream.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn within_an_account_node_ids_may_be_exchanged() {
    let mesh = mesh().await;
    let user = leaf(&mesh, "shop/user").await;
    let grant = token(&mesh, &claims("shop/user", &["user"]));
    let mut held = Vec::new();
    for (node, port) in [("shop/user-0", 4001), ("shop/user-1", 4002)] {
        let served = registration(node, &grant, &[("user:80", port)]);
        held.push(register(&mesh, &user, served).await.expect("granted"));
    }
    // Two certificates of one account, each as either workload.
    for leaf in [&user, &leaf(&mesh, "shop/user").await] {
        for (node, port) in [("shop/user-0", 4001), ("shop/user-1", 4002)] {
            let mut stream = Delta::open(&mesh, leaf, node, "weft").await;
            assert_eq!(
                own_ports(&mut stream, node)
                    .await
                    .ports
                    .keys()
                    .collect::<Vec<_>>(),
                [&port]
            );
            let hints = format!("hints/{node}");
            assert!(read(&mut stream, types::HINTS, &hints).await.is_some());
        }
    }
}

#[tokio::test]
async fn without_a_certificate_only_certificates_are_to_be_had() {
    let mesh = mesh().await;
    let channel = async || channel(&mesh, None).await;
    let mut ads = AggregatedDiscoveryServiceClient::new(channel().await);
    let refused = soon(ads.delta_aggregated_resources(tokio_stream::empty())).await;
    assert_eq!(refused.map(drop).unwrap_err().code(), Code::Unauthenticated);
    let refused = soon(ads.stream_aggregated_resources(tokio_stream::empty())).await;
    assert_eq!(refused.map(drop).unwrap_err().code(), Code::Unauthenticated);
    let (_open, messages) = tokio::sync::mpsc::channel(1);
    let refused =
        soon(RegistryServiceClient::new(channel().await).register(ReceiverStream::new(messages))).await;
    assert_eq!(refused.map(drop).unwrap_err().code(), Code::Unauthenticated);
    let good = token(&mesh, &claims("shop/user", &[]));
    let leaf = certify(&mesh, &good)
        .await
        .expect("the one service for strangers");
    assert_eq!(leaf.id().as_str(), "spiffe://cluster.local/ns/shop/sa/user");
}

/// Tokens of `shop/user` that are worth nothing, each with what is wrong with it.
fn bad_tokens(mesh: &Mesh) -> Vec<(&'static str, String)> {
    let good = claims("shop/user", &["user"]);
    let mut cut = token(mesh, &good);
    cut.truncate(cut.len() - 8);
    let [head, body, _] = cut.split('.').collect::<Vec<_>>()[..] else {
        panic!("{cut}")
    };
    let expired = SystemTime::now() - Duration::from_secs(1);
    let stranger = SigningKey::generate().expect("a key");
    let long = claims("shop/user", &vec!["user"; 2_000]);
    vec![
        (
            "another audience",
            token(
                mesh,
                &Claims {
                    audience: "kubernetes".into(),
                    ..good.clone()
                },
            ),
        ),
        (
            "no audience",
            token(
                mesh,
                &Claims {
                    audience: String::new(),
                    ..good.clone()
                },
            ),
        ),
        (
            "expired",
            token(
                mesh,
                &Claims {
                    expires_at: expired,
                    ..good.clone()
                },
            ),
        ),
        (
            "no name of an account",
            token(
                mesh,
                &Claims {
                    service_account: "a/b".into(),
                    ..good.clone()
                },
            ),
        ),
        ("a foreign key", stranger.sign(&good).expect("a token")),
        ("a cut signature", cut.clone()),
        ("no signature", format!("{head}.{body}.")),
        ("too long", token(mesh, &long)),
        ("nonsense", "nonsense".into()),
        ("nothing", String::new()),
    ]
}

#[tokio::test]
async fn a_bad_token_gets_nothing() {
    let mesh = mesh().await;
    let user = leaf(&mesh, "shop/user").await;
    for (what, token) in bad_tokens(&mesh) {
        let refused = certify(&mesh, &token).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused}");
        let refused = register(
            &mesh,
            &user,
            registration("shop/user-0", &token, &[("user:80", 4001)]),
        )
        .await;
        assert_eq!(
            refused.map(drop).unwrap_err().code(),
            Code::Unauthenticated,
            "{what}"
        );
    }
    // Nothing of all this was published.
    let mut stream = Delta::open(&mesh, &user, "shop/sa/user", "weft").await;
    assert_eq!(endpoints(&mut stream, USER).await, []);
}

/// Workloads and identities of a cluster's endpoints.
async fn endpoints(stream: &mut Delta, name: &str) -> Vec<(u16, Option<String>)> {
    let Some(Resource::Endpoints(endpoints)) = read(stream, types::ENDPOINTS, name).await else {
        panic!("{name} has no endpoints at all")
    };
    let seen = endpoints.endpoints.iter();
    seen.map(|one| (one.address.port(), one.identity.as_deref().map(str::to_owned)))
        .collect()
}

#[tokio::test]
async fn a_workload_registers_for_itself_only() {
    let mesh = mesh().await;
    let [user, order, teller] = [
        leaf(&mesh, "shop/user").await,
        leaf(&mesh, "shop/order").await,
        leaf(&mesh, "bank/teller").await,
    ];
    let grant = |account, services: &[&str]| token(&mesh, &claims(account, services));
    let own = registration(
        "shop/user-0",
        &grant("shop/user", &["user"]),
        &[("user:80", 4001)],
    );
    let first = register(&mesh, &user, own).await.expect("granted");

    let (user_token, order_token) = (
        grant("shop/user", &["user"]),
        grant("shop/order", &["user", "cart"]),
    );
    let refused = [
        (
            "a Service that is not granted",
            &user,
            registration("shop/user-1", &user_token, &[("cart:80", 4003)]),
        ),
        (
            "one of two that is not granted",
            &user,
            registration(
                "shop/user-1",
                &user_token,
                &[("user:80", 4003), ("cart:80", 4003)],
            ),
        ),
        (
            "another's token",
            &order,
            registration("shop/order-0", &user_token, &[("user:80", 4003)]),
        ),
        (
            "another namespace",
            &teller,
            registration("shop/user-1", &grant("bank/teller", &["user"]), &[("user:80", 1)]),
        ),
        (
            "another account's node id",
            &order,
            registration("shop/user-0", &order_token, &[("user:80", 4003)]),
        ),
    ];
    for (what, leaf, registration) in refused {
        let refused = register(&mesh, leaf, registration).await.map(drop);
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied, "{what}");
    }
    let expected = vec![(4001, Some("spiffe://cluster.local/ns/shop/sa/user".to_owned()))];
    let mut stream = Delta::open(&mesh, &order, "shop/sa/order", "weft").await;
    assert_eq!(
        endpoints(&mut stream, USER).await,
        expected,
        "nothing of this was published"
    );

    // A stream that merely broke leaves its name taken; one that said goodbye frees it.
    drop(first);
    let hijack = || registration("shop/user-0", &order_token, &[("user:80", 4003)]);
    let refused = register(&mesh, &order, hijack()).await.map(drop);
    assert_eq!(
        refused.unwrap_err().code(),
        Code::PermissionDenied,
        "within the grace period"
    );
    let own = registration("shop/user-0", &user_token, &[("user:80", 4001)]);
    register(&mesh, &user, own)
        .await
        .expect("its own")
        .withdraw()
        .await;
    let _order = register(&mesh, &order, hijack()).await.expect("the name is free");
}
