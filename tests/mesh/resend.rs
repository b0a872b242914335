//! Nothing unchanged is sent again on a delta stream, whichever side was away; a state-of-the-world client gets one
//! full answer per stream.

use std::collections::{BTreeMap, HashMap};

use weft_identity::leaf::Leaf;
use weft_tests::mesh::Mesh;
use weft_tests::xds::{Delta, Registered, World, claims, leaf, register, registration, subscription, token};
use weft_xds_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use weft_xds_proto::types;

use crate::manifests::{SERVICES, split};

const USER: &str = "user.shop.svc.cluster.local:80";
const CART: &str = "cart.shop.svc.cluster.local:80";

/// All that our proxy would hold, by type. Not its hints: they follow what is subscribed, so they do change.
const WANTED: [(&str, &[&str]); 5] = [
    (types::SECRET, &["spiffe://cluster.local"]),
    (types::LISTENER, &["inbound/shop/user-0", USER, CART]),
    (types::ROUTE, &[USER]),
    (types::CLUSTER, &[USER, CART]),
    (types::ENDPOINTS, &[USER, CART]),
];

type Held = BTreeMap<&'static str, HashMap<String, String>>;

async fn mesh() -> (Mesh, Leaf) {
    let mesh = Mesh::start(&[("services.yaml", SERVICES), ("routes.yaml", &split(1, 1))], &[]).await;
    let leaf = leaf(&mesh, "shop/user").await;
    (mesh, leaf)
}

async fn registered(mesh: &Mesh, leaf: &Leaf) -> Registered {
    let grant = token(mesh, &claims("shop/user", &["user"]));
    register(
        mesh,
        leaf,
        registration("shop/user-0", &grant, &[("user:80", 4001)]),
    )
    .await
    .expect("granted")
}

/// Reads everything that is wanted, and remembers the versions.
async fn read_all(stream: &mut Delta) -> Held {
    let mut held = Held::new();
    for (kind, names) in WANTED {
        stream.subscribe(kind, names).await;
        let versions = held.entry(kind).or_default();
        while versions.len() < names.len() {
            let response = stream.next().await;
            assert_eq!(response.type_url, kind);
            assert!(
                response.removed_resources.is_empty(),
                "{kind}: {:?}",
                response.removed_resources
            );
            versions.extend(
                response
                    .resources
                    .into_iter()
                    .map(|resource| (resource.name, resource.version)),
            );
        }
    }
    held
}

/// Subscribes with the versions held. Every type is then asked for a name that doesn't exist: its answer must be the
/// first thing that comes, and hold nothing else.
async fn nothing_comes(stream: &mut Delta, held: &Held) {
    for (kind, names) in WANTED {
        let request = subscription(kind, names);
        stream
            .send(DeltaDiscoveryRequest {
                initial_resource_versions: held[kind].clone(),
                ..request
            })
            .await;
    }
    for kind in [types::LISTENER, types::ROUTE, types::CLUSTER, types::ENDPOINTS] {
        stream.subscribe(kind, &["absent.shop.svc.cluster.local:1"]).await;
        let response = stream.next().await;
        assert_eq!(response.type_url, kind);
        assert!(response.resources.is_empty(), "{kind}: sent again");
        assert_eq!(response.removed_resources, ["absent.shop.svc.cluster.local:1"]);
    }
}

#[tokio::test]
async fn whichever_side_was_away_nothing_unchanged_is_sent() {
    let (mut mesh, leaf) = mesh().await;
    let _first = registered(&mesh, &leaf).await;
    let mut stream = Delta::open(&mesh, &leaf, "shop/user-0", "weft").await;
    let held = read_all(&mut stream).await;
    drop(stream);
    nothing_comes(&mut Delta::open(&mesh, &leaf, "shop/user-0", "weft").await, &held).await;

    // Killed and started again: versions are the same, and the registration is kept though nobody is back yet.
    for _ in 0..2 {
        mesh.control_plane.kill().await;
        mesh.restart_control_plane().await;
        let mut stream = Delta::open(&mesh, &leaf, "shop/user-0", "weft").await;
        nothing_comes(&mut stream, &held).await;
        // Nor when the workload is back, unchanged.
        let _again = registered(&mesh, &leaf).await;
        stream
            .subscribe(types::CLUSTER, &["absent.shop.svc.cluster.local:2"])
            .await;
        let response = stream.next().await;
        assert!(
            response.type_url == types::CLUSTER && response.resources.is_empty(),
            "{response:?}"
        );
    }
}

#[tokio::test]
async fn what_changed_meanwhile_is_all_that_is_sent() {
    let (mut mesh, leaf) = mesh().await;
    let _registered = registered(&mesh, &leaf).await;
    let mut stream = Delta::open(&mesh, &leaf, "shop/user-0", "weft").await;
    let mut held = read_all(&mut stream).await;
    mesh.control_plane.kill().await;
    mesh.write_manifest("routes.yaml", &split(1, 3));
    mesh.restart_control_plane().await;
    let mut stream = Delta::open(&mesh, &leaf, "shop/user-0", "weft").await;
    for (kind, names) in WANTED {
        let request = subscription(kind, names);
        stream
            .send(DeltaDiscoveryRequest {
                initial_resource_versions: held[kind].clone(),
                ..request
            })
            .await;
    }
    let response = stream.next().await;
    assert_eq!(response.type_url, types::ROUTE);
    assert_eq!(
        response
            .resources
            .iter()
            .map(|one| one.name.as_str())
            .collect::<Vec<_>>(),
        [USER]
    );
    assert_ne!(response.resources[0].version, held[types::ROUTE][USER]);
    held.insert(
        types::ROUTE,
        [(USER.to_owned(), response.resources[0].version.clone())].into(),
    );
    drop(stream);
    nothing_comes(&mut Delta::open(&mesh, &leaf, "shop/user-0", "weft").await, &held).await;
}

#[tokio::test]
async fn a_state_of_the_world_client_gets_one_full_answer_per_stream() {
    let (mut mesh, leaf) = mesh().await;
    let names = ["user", "cart", "absent"];
    let mut versions = Vec::new();
    for _ in 0..2 {
        for _ in 0..2 {
            let mut stream = World::open(&mesh, &leaf, "shop/sa/user", "gRPC C-core").await;
            stream.ask(types::LISTENER, "", &names).await;
            let full = stream.next().await;
            assert_eq!(
                (full.type_url.as_str(), full.resources.len()),
                (types::LISTENER, 2)
            );
            versions.push(full.version_info);
            // Acknowledgements, also repeated ones, are not answered: the next response is to the next question.
            for _ in 0..3 {
                stream.ask(types::LISTENER, &full.nonce, &names).await;
            }
            stream.ask(types::CLUSTER, "", &[USER]).await;
            let other = stream.next().await;
            assert_eq!(
                (other.type_url.as_str(), other.resources.len()),
                (types::CLUSTER, 1)
            );
        }
        mesh.control_plane.kill().await;
        mesh.restart_control_plane().await;
    }
    assert!(
        versions.iter().all(|version| *version == versions[0]),
        "one content, one version: {versions:?}"
    );
}
