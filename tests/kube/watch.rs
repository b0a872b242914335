//! The control plane follows an API server that goes away, comes back, and comes back older.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use weft_tests::kube::Kubernetes;
use weft_tests::mesh::page;

use crate::place::{ControlPlane, found};

/// Services, each with one slice.
const SERVICES: usize = 1_000;

/// Endpoints of each.
const ENDPOINTS: usize = 10;

/// Requests to the API server at once, while its objects are made.
const AT_ONCE: usize = 16;

/// What a control plane shows.
struct Shown {
    plane: ControlPlane,
    _folder: TempDir,
}

impl Shown {
    async fn start(kubeconfig: &Path, name: &str) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        let plane = ControlPlane::start(kubeconfig, folder.path(), name, "127.0.0.1", &[]).await;
        Self {
            plane: plane.ready().await,
            _folder: folder,
        }
    }

    /// The objects of these kinds that it has, with their generations.
    async fn holds(&self, kinds: &[&str]) -> BTreeMap<String, Value> {
        let shown = page(self.plane.address("admin"), "/objects").await;
        let objects = shown["objects"].as_array().expect("a list").iter();
        let named = objects.map(|object| {
            let name = object["object"].as_str().expect("a name").to_owned();
            (name, object["generation"].clone())
        });
        let of_kind = |name: &str| kinds.iter().any(|kind| name.split(' ').next() == Some(*kind));
        named.filter(|(name, _)| of_kind(name)).collect()
    }

    async fn until(&self, kinds: &[&str], what: &str, so: impl Fn(&BTreeMap<String, Value>) -> bool) {
        let look = async || so(&self.holds(kinds).await).then_some(());
        found(&format!("the control plane sees that {what}"), look).await;
    }
}

/// What is compared: everything that endpoints come from. Of what the API server keeps of itself the address changes.
const KINDS: [&str; 2] = ["Service", "EndpointSlice"];

fn service(index: usize) -> Service {
    let service = json!({
        "metadata": { "name": format!("s{index}"), "namespace": "default" },
        "spec": { "ports": [{ "name": "http", "port": 80 }] },
    });
    serde_json::from_value(service).expect("a Service")
}

fn slice(index: usize) -> EndpointSlice {
    let endpoints = (0..ENDPOINTS).map(|endpoint| {
        let address = format!("10.{}.{}.{endpoint}", 1 + index / 250, index % 250);
        json!({ "addresses": [address], "conditions": { "ready": true } })
    });
    let slice = json!({
        "metadata": {
            "name": format!("s{index}"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": format!("s{index}") },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    });
    serde_json::from_value(slice).expect("an EndpointSlice")
}

/// Makes (or deletes) these Services and slices, several at once.
async fn change(kubernetes: &Kubernetes, range: Range<usize>, make: bool) {
    let client = kubernetes.client().await;
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let mut tasks = JoinSet::new();
    for index in range {
        if tasks.len() == AT_ONCE {
            tasks
                .join_next()
                .await
                .expect("there are some")
                .expect("none panics");
        }
        let (services, slices) = (services.clone(), slices.clone());
        tasks.spawn(async move {
            let name = format!("s{index}");
            if make {
                let created = services.create(&PostParams::default(), &service(index)).await;
                created.expect("a Service is made");
                let created = slices.create(&PostParams::default(), &slice(index)).await;
                created.expect("a slice is made");
            } else {
                let gone = slices.delete(&name, &DeleteParams::default()).await;
                gone.expect("a slice is deleted");
                let gone = services.delete(&name, &DeleteParams::default()).await;
                gone.expect("a Service is deleted");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("none panics");
    }
}

async fn stop(kubernetes: &Kubernetes) {
    kubernetes.kill_component("kube-apiserver").await;
    kubernetes.kill_component("etcd").await;
}

async fn start(kubernetes: &Kubernetes) -> [tokio::process::Child; 2] {
    let etcd = kubernetes.start_component("etcd");
    let server = kubernetes.start_component("kube-apiserver");
    kubernetes.serves().await;
    [etcd, server]
}

async fn copy(from: &Path, to: &Path) {
    let copied = tokio::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status();
    assert!(copied.await.expect("cp runs").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_endpoints_outlive_an_api_server_that_comes_back_older() {
    let kubernetes = Kubernetes::start();
    kubernetes
        .kubectl(&["create", "namespace", "weft-system"])
        .await
        .expect("a namespace");
    change(&kubernetes, 0..SERVICES, true).await;
    let first = Shown::start(kubernetes.kubeconfig(), "first").await;
    let all = first.holds(&["EndpointSlice"]).await;
    assert!(all.len() >= SERVICES, "{}", all.len());

    // Gone, and back as it was: nothing is withdrawn meanwhile.
    let etcd = kubernetes.state().join("etcd");
    let backup = kubernetes.state().join("etcd.older");
    stop(&kubernetes).await;
    copy(&etcd, &backup).await;
    let away = first.holds(&KINDS).await;
    let components = start(&kubernetes).await;
    assert_eq!(first.holds(&["EndpointSlice"]).await.len(), all.len());

    // It goes on hearing what changes.
    change(&kubernetes, 0..100, false).await;
    change(&kubernetes, SERVICES..SERVICES + 50, true).await;
    let newest = format!("EndpointSlice default/s{}", SERVICES + 49);
    let heard = |held: &BTreeMap<String, Value>| {
        held.contains_key(&newest) && !held.keys().any(|name| name.ends_with(" default/s99"))
    };
    first.until(&KINDS, "endpoints came and went", heard).await;

    // Back as it was before that: what has been deleted is there again, what was made is gone.
    stop(&kubernetes).await;
    drop(components);
    std::fs::remove_dir_all(&etcd).expect("etcd's state");
    copy(&backup, &etcd).await;
    let _components = start(&kubernetes).await;
    let restored = |held: &BTreeMap<String, Value>| {
        let slices = held
            .keys()
            .filter(|name| name.starts_with("EndpointSlice "))
            .count();
        // In neither state are there fewer, so with fewer something was withdrawn before a list was complete.
        assert!(slices >= SERVICES - 50, "{slices} slices");
        *held == away
    };
    first.until(&KINDS, "the state went back", restored).await;
    let fresh = Shown::start(kubernetes.kubeconfig(), "fresh").await;
    assert_eq!(first.holds(&KINDS).await, fresh.holds(&KINDS).await);
}

#[tokio::test]
async fn routes_work_when_their_definition_appears_and_go_with_it() {
    const ROUTE: &str = "HTTPRoute default/r";
    let kubernetes = Kubernetes::start();
    kubernetes
        .kubectl(&["create", "namespace", "weft-system"])
        .await
        .expect("a namespace");
    let control_plane = Shown::start(kubernetes.kubeconfig(), "only").await;
    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: default}
spec: {parentRefs: [{group: '', kind: Service, name: kubernetes}], rules: [{backendRefs: [{name: kubernetes, port: 443}]}]}
";
    for _ in 0..2 {
        kubernetes.install_gateway_api().await;
        kubernetes.apply(route).await.expect("a route");
        let there = |held: &BTreeMap<String, Value>| held.contains_key(ROUTE);
        control_plane
            .until(&["HTTPRoute"], "a route appeared", there)
            .await;
        kubernetes
            .kubectl(&["delete", "crd", "httproutes.gateway.networking.k8s.io"])
            .await
            .expect("the definition is deleted");
        control_plane
            .until(&["HTTPRoute"], "routes are gone", BTreeMap::is_empty)
            .await;
    }
}
