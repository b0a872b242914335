//! The control plane follows an API server that goes away, comes back, and comes back older.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use weft_tests::kube::Kubernetes;
use weft_tests::mesh::page;

use crate::installed::Credential;
use crate::line::Line;
use crate::place::{ControlPlane, found};

/// Services, each with one slice.
const SERVICES: usize = 1_000;

/// Endpoints of each.
const ENDPOINTS: usize = 10;

/// Requests to the API server at once, while its objects are made.
const AT_ONCE: usize = 16;

/// How long the API server is away for real.
const AWAY: Duration = Duration::from_mins(1);

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

/// Refuses everything that the control plane asks for, with 429.
const REFUSING: &str = "
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: refusing}
spec:
  type: Limited
  limited: {nominalConcurrencyShares: 0, borrowingLimitPercent: 0, limitResponse: {type: Reject}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: refusing}
spec:
  priorityLevelConfiguration: {name: refusing}
  matchingPrecedence: 2
  rules:
  - subjects: [{kind: ServiceAccount, serviceAccount: {namespace: weft-system, name: default}}]
    resourceRules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], namespaces: ['*'], clusterScope: true}]
";

/// A control plane that watches ten thousand endpoints over a line that can be cut.
struct Stage {
    kubernetes: Kubernetes,
    line: Line,
    credential: Credential,
    first: Shown,
    /// Services that are there: from, to.
    there: Range<usize>,
    _folder: TempDir,
}

impl Stage {
    async fn set() -> Self {
        let kubernetes = Kubernetes::start();
        for make in [
            "create namespace weft-system",
            "create clusterrolebinding weft --clusterrole=cluster-admin --serviceaccount=weft-system:default",
            "wait --for=create serviceaccount/default -n weft-system",
        ] {
            let make: Vec<_> = make.split(' ').collect();
            kubernetes.kubectl(&make).await.expect("made");
        }
        change(&kubernetes, 0..SERVICES, true).await;
        let line = Line::to(&kubernetes).await;
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        let account = ["weft-system", "default"];
        let credential = Credential::new(&kubernetes, folder.path(), account, Some(line.address)).await;
        let first = Shown::start(&credential.kubeconfig, "first").await;
        let all = first.holds(&["EndpointSlice"]).await;
        assert!(all.len() >= SERVICES, "{}", all.len());
        Self {
            kubernetes,
            line,
            credential,
            first,
            there: 0..SERVICES,
            _folder: folder,
        }
    }

    /// Some Services go, and others come.
    async fn stir(&mut self) {
        let (from, to) = (self.there.start, self.there.end);
        change(&self.kubernetes, from..from + 20, false).await;
        change(&self.kubernetes, to..to + 10, true).await;
        self.there = from + 20..to + 10;
    }

    /// Waits until that was heard, and sees to it that nothing else is withdrawn meanwhile.
    async fn heard(&self) {
        let there = self.there.clone();
        let newest = format!("EndpointSlice default/s{}", there.end - 1);
        let oldest = format!("EndpointSlice default/s{}", there.start - 1);
        let heard = |held: &BTreeMap<String, Value>| {
            let missing = (there.start..SERVICES)
                .filter(|index| !held.contains_key(&format!("EndpointSlice default/s{index}")));
            assert_eq!(missing.count(), 0, "withdrawn");
            held.contains_key(&newest) && !held.contains_key(&oldest)
        };
        self.first.until(&KINDS, "endpoints came and went", heard).await;
    }

    /// Waits until the control plane has told of this.
    async fn told(&self, words: &str) {
        let look = async || self.first.plane.process.log().contains(words).then_some(());
        found(&format!("the log has {words}"), look).await;
    }

    /// Every watch is cut, and goes on.
    async fn cut(&mut self) {
        self.line.cut();
        self.stir().await;
        self.heard().await;
    }

    /// Every request is refused for a while.
    async fn refuse(&mut self) {
        self.kubernetes.apply(REFUSING).await.expect("taken");
        let namespaces: Api<Namespace> = Api::all(self.credential.client().await);
        found("the API server refuses", async || {
            let asked = namespaces.list(&ListParams::default().limit(1)).await;
            matches!(asked, Err(kube::Error::Api(status)) if status.code == 429).then_some(())
        })
        .await;
        let before = self.first.holds(&KINDS).await;
        self.line.cut();
        self.stir().await;
        self.told("(429)").await;
        assert_eq!(self.first.holds(&KINDS).await, before);
        for kind in ["flowschema", "prioritylevelconfiguration"] {
            let delete = ["delete", kind, "refusing"];
            self.kubernetes.kubectl(&delete).await.expect("deleted");
        }
        self.heard().await;
    }

    /// Every watch is cut, and an API server that has just begun knows nothing of what was before.
    async fn forget(&mut self) -> tokio::process::Child {
        self.line.hold();
        self.stir().await;
        self.kubernetes.kill_component("kube-apiserver").await;
        let server = self.kubernetes.start_component("kube-apiserver");
        self.kubernetes.serves().await;
        self.line.mend();
        self.heard().await;
        self.told("(410)").await;
        server
    }

    /// Nobody answers for a while.
    async fn close(&mut self) {
        let before = self.first.holds(&KINDS).await;
        self.line.close();
        self.stir().await;
        let begun = Instant::now();
        while begun.elapsed() < AWAY {
            assert_eq!(self.first.holds(&KINDS).await, before);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        self.line.mend();
        self.heard().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_endpoints_outlive_whatever_the_api_server_does() {
    let mut stage = Stage::set().await;
    stage.cut().await;
    stage.refuse().await;
    let _server = stage.forget().await;
    stage.close().await;

    // Gone, and back as it was: nothing is withdrawn meanwhile.
    let kubernetes = &stage.kubernetes;
    let etcd = kubernetes.state().join("etcd");
    let backup = kubernetes.state().join("etcd.older");
    let away = stage.first.holds(&KINDS).await;
    stop(kubernetes).await;
    copy(&etcd, &backup).await;
    let components = start(kubernetes).await;
    assert_eq!(stage.first.holds(&KINDS).await, away);
    stage.stir().await;
    stage.heard().await;

    // Back as it was before that: what has been deleted is there again, what was made is gone.
    let kubernetes = &stage.kubernetes;
    stop(kubernetes).await;
    drop(components);
    std::fs::remove_dir_all(&etcd).expect("etcd's state");
    copy(&backup, &etcd).await;
    let _components = start(kubernetes).await;
    let restored = |held: &BTreeMap<String, Value>| {
        let slices = held.keys().filter(|name| name.starts_with("EndpointSlice "));
        // In neither state are there fewer, so with fewer something was withdrawn before a list was complete.
        assert!(slices.count() >= stage.there.len(), "withdrawn");
        *held == away
    };
    stage.first.until(&KINDS, "the state went back", restored).await;
    let fresh = Shown::start(kubernetes.kubeconfig(), "fresh").await;
    assert_eq!(stage.first.holds(&KINDS).await, fresh.holds(&KINDS).await);
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
