//! Broken installations, one fault each: exactly that fault is named, and with a remedy.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::facts::{Answer, Facts, Metrics, Rehearsal, Replica, Right};
use super::report::{Outcome, Report, table};
use super::weigh;

const NOW: &str = "2026-11-21T12:00:00Z";

/// A root that ends with this year's beginning.
fn root(year: i32) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    params.self_signed(&key).unwrap().pem()
}

/// The mesh's root, which outlives all this.
fn mesh_root() -> &'static str {
    static ROOT: OnceLock<String> = OnceLock::new();
    ROOT.get_or_init(|| root(2126))
}

/// One that is over.
const OVER: i32 = 2020;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn crd(name: &str, version: &str) -> Value {
    json!({
        "metadata": { "name": name, "annotations": { "gateway.networking.k8s.io/bundle-version": "v1.7.0" } },
        "spec": { "group": "g", "names": { "kind": "K", "plural": "p" }, "scope": "Namespaced",
            "versions": [{ "name": version, "served": true, "storage": true }] },
        "status": { "conditions": [{ "type": "Established", "status": "True" }] },
    })
}

fn plane(ready: bool) -> Pod {
    let status = if ready { "True" } else { "False" };
    read(json!({
        "metadata": { "name": "weft-control-plane-1", "namespace": "weft-system" },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status }],
            "containerStatuses": [{ "name": "control-plane", "ready": ready, "restartCount": 0, "image": "", "imageID": "",
                "state": if ready { json!({ "running": {} }) }
                    else { json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off" } }) } }] },
    }))
}

fn pod(namespace: &str, name: &str, injected: bool) -> Pod {
    let containers = if injected {
        json!([{ "name": "weft-init" }, { "name": "weft-proxy" }])
    } else {
        json!([])
    };
    read(json!({
        "metadata": { "name": format!("{name}-abc-1"), "namespace": namespace, "labels": { "pod-template-hash": "abc" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-abc"), "uid": "1",
                "controller": true }] },
        "spec": { "containers": [{ "name": "app" }], "initContainers": containers },
        "status": { "phase": "Running", "startTime": "2026-11-21T11:00:00Z",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "initContainerStatuses": if injected { json!([{ "name": "weft-proxy", "ready": true, "started": true,
                "restartCount": 0, "image": "", "imageID": "", "state": { "running": {} } }]) } else { json!([]) } },
    }))
}

fn namespace(name: &str, labels: &Value, annotations: &Value) -> Namespace {
    read(json!({ "metadata": { "name": name, "labels": labels, "annotations": annotations } }))
}

fn bundle(namespace: &str, pem: &str) -> ConfigMap {
    read(
        json!({ "metadata": { "name": "weft-trust-bundle", "namespace": namespace }, "data": { "ca.crt": pem } }),
    )
}

fn webhooks(pem: &str) -> Value {
    let bundle = k8s_openapi::ByteString(pem.as_bytes().to_vec());
    let webhook = |name: &str| {
        json!({ "name": name, "failurePolicy": "Fail", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": { "caBundle": bundle } })
    };
    json!({ "metadata": { "name": "weft-injector" },
        "webhooks": [webhook("namespaces.inject.weft.dev"), webhook("workloads.inject.weft.dev")] })
}

fn route(accepted: &str, reason: &str) -> Value {
    let condition = |kind: &str, status: &str, reason: &str| json!({ "type": kind, "status": status, "reason": reason, "message": "because", "observedGeneration": 1 });
    json!({
        "kind": "HTTPRoute", "metadata": { "namespace": "shop", "name": "r", "generation": 1 },
        "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": "user" }] },
        "status": { "parents": [{ "parentRef": { "group": "", "kind": "Service", "name": "user" },
            "controllerName": "weft.dev/control-plane",
            "conditions": [condition("Accepted", accepted, reason), condition("ResolvedRefs", "True", "ResolvedRefs")] }] },
    })
}

fn stream(state: &str) -> Value {
    json!({ "node": "shop/user-abc-1", "identity": "i", "dialect": "weft", "version": "0.1.0", "state": state,
        "waiting": usize::from(state == "STALE"), "behind": ["Route user:80"],
        "refused": if state == "NACK" { json!([{ "resource": "Route user:80", "reason": "no such filter" }]) } else { json!([]) } })
}

fn replica(state: &str) -> BTreeMap<String, Answer<Replica>> {
    let replica = Replica {
        streams: vec![read(stream(state))],
        objects: read(json!({ "objects": [{ "object": "Service shop/user",
            "conditions": [{ "type": "Accepted", "status": "True", "reason": "Accepted", "message": "is read" }] }] })),
    };
    BTreeMap::from([("weft-control-plane-1".to_owned(), Ok(replica))])
}

/// An installation with nothing to say about.
/// A Service whose second port, which is gRPC's, leads where the first leads.
fn service(namespace: &str, first: &str) -> Service {
    read(json!({
        "metadata": { "name": "user", "namespace": namespace },
        "spec": { "ports": [
            { "name": first, "port": 80, "targetPort": 8080 },
            { "name": "grpc", "port": 81, "targetPort": if first == "http2" { 8081 } else { 8080 } },
        ] },
    }))
}

fn healthy() -> Facts {
    let right = |allowed| Right {
        what: "patch httproutes/status".to_owned(),
        allowed,
    };
    Facts {
        now: time(NOW),
        namespace: None,
        version: Ok(read(
            json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.3", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "" }),
        )),
        crds: Ok(vec![
            read(crd("httproutes.gateway.networking.k8s.io", "v1")),
            read(crd("grpcroutes.gateway.networking.k8s.io", "v1")),
            read(crd("trafficpolicies.weft.dev", "v1alpha1")),
            read(crd("meshtlspolicies.weft.dev", "v1alpha1")),
        ]),
        own_rights: Ok(vec![right(true)]),
        rights: Ok(vec![right(true)]),
        deployment: Ok(Some(read(
            json!({ "metadata": {}, "spec": { "replicas": 1, "selector": {}, "template": {} } }),
        ))),
        planes: Ok(vec![plane(true)]),
        endpoints: Ok(2),
        webhooks: Ok(Some(read(webhooks(mesh_root())))),
        rehearsal: Some(Rehearsal::Admitted(vec!["weft-init".into(), "weft-proxy".into()])),
        lease: Ok(Some(read(
            json!({ "metadata": {}, "spec": { "holderIdentity": "weft-control-plane-1",
            "leaseDurationSeconds": 15, "renewTime": "2026-11-21T11:59:55.000000Z" } }),
        ))),
        bundles: Ok(vec![bundle("shop", mesh_root())]),
        namespaces: Ok(vec![
            namespace("shop", &json!({ "weft.dev/inject": "enabled" }), &json!({})),
            namespace("other", &json!({}), &json!({})),
        ]),
        pods: Ok(vec![pod("shop", "user", true), pod("other", "tool", false)]),
        services: Ok(vec![service("shop", "http2"), service("other", "http")]),
        objects: Ok(vec![route("True", "Accepted")]),
        replicas: replica("SYNCED"),
        metrics: BTreeMap::from([("shop/user-abc-1".to_owned(), Ok(Metrics::default()))]),
    }
}

/// What a report finds wrong: the names of the checks, those that only warn in brackets.
fn found(report: &Report) -> Vec<String> {
    let wrong = report.checks.iter().filter_map(|line| match line.outcome {
        Outcome::Ok => None,
        Outcome::Warning => Some(format!("({})", line.check)),
        Outcome::Failed => Some(line.check.to_owned()),
    });
    wrong.collect()
}

fn broken(fault: impl FnOnce(&mut Facts)) -> Report {
    let mut facts = healthy();
    fault(&mut facts);
    let report = weigh(&facts, false);
    for line in &report.checks {
        assert_eq!(line.remedy.is_none(), line.outcome == Outcome::Ok, "{line:?}");
    }
    report
}

/// The one fault, and a word of what is said about it.
fn only(check: &str, word: &str, fault: impl FnOnce(&mut Facts)) {
    let report = broken(fault);
    let text = table(&report);
    assert_eq!(found(&report), [check], "{text}");
    assert!(text.contains(word), "{word} is not in\n{text}");
    assert_eq!(report.healthy, check.starts_with('('));
}

#[test]
fn a_healthy_installation_has_nothing_to_say() {
    let report = broken(|_| {});
    assert!(found(&report).is_empty(), "{}", table(&report));
    assert!(report.healthy && report.checks.len() > 15, "{}", table(&report));
}

#[test]
fn the_platform() {
    only("api-server", "connection refused", |facts| {
        facts.version = Err("connection refused".into());
    });
    only("api-server", "older than 1.33", |facts| {
        if let Ok(info) = &mut facts.version {
            (info.minor, info.git_version) = ("32+".into(), "v1.32.1".into());
        }
    });
    only("(gateway-api)", "kubectl apply --server-side", |facts| {
        facts.crds.as_mut().unwrap().remove(0);
    });
    only("crds", "trafficpolicies.weft.dev is missing", |facts| {
        facts.crds.as_mut().unwrap().remove(2);
    });
    only("control-plane-rights", "patch httproutes/status", |facts| {
        facts.rights.as_mut().unwrap()[0].allowed = false;
    });
}

#[test]
fn the_control_plane() {
    only("ready", "CrashLoopBackOff (back-off)", |facts| {
        facts.planes = Ok(vec![plane(false)]);
        facts.replicas.clear();
        facts.rehearsal = Some(Rehearsal::Refused("failed calling webhook".into()));
        facts.lease = Ok(None);
    });
    only("ready", "scaled to 0", |facts| {
        facts.deployment = Ok(Some(read(
            json!({ "spec": { "replicas": 0, "selector": {}, "template": {} } }),
        )));
        facts.planes = Ok(Vec::new());
        facts.replicas.clear();
        facts.rehearsal = Some(Rehearsal::Refused("failed calling webhook".into()));
    });
    only("service", "leads to none of its pods", |facts| {
        facts.endpoints = Ok(0);
        facts.rehearsal = Some(Rehearsal::Refused("failed calling webhook".into()));
    });
    only("leader", "the Lease has run out", |facts| {
        facts.now = time("2026-11-21T12:01:00Z");
    });
    only("leader", "no replica leads", |facts| facts.lease = Ok(None));
    only("answers", "pods/portforward", |facts| {
        facts.replicas = BTreeMap::from([("weft-control-plane-1".into(), Err("forbidden".into()))]);
    });
}

#[test]
fn injection() {
    only("webhooks", "is missing", |facts| facts.webhooks = Ok(None));
    only("webhooks", "no CA certificate", |facts| {
        facts.webhooks = Ok(Some(read(webhooks(""))));
    });
    only("webhooks", "its CA certificate ended", |facts| {
        facts.webhooks = Ok(Some(read(webhooks(&root(OVER)))));
    });
    only("webhooks", "none of the mesh's roots", |facts| {
        facts.webhooks = Ok(Some(read(webhooks(&root(2126)))));
    });
    only("rehearsal", "doesn't reach the webhook", |facts| {
        facts.rehearsal = Some(Rehearsal::Refused(
            "Internal error: failed calling webhook \"x\": timeout".into(),
        ));
    });
    only("rehearsal", "gets no sidecar", |facts| {
        facts.rehearsal = Some(Rehearsal::Admitted(Vec::new()));
    });
}

#[test]
fn certificates() {
    only("root", "a root has ended", |facts| {
        facts.bundles = Ok(vec![bundle("shop", &(root(OVER) + mesh_root()))]);
    });
    only("root", "ends in 10 days", |facts| {
        facts.bundles = Ok(vec![bundle("shop", &(root(OVER) + mesh_root()))]);
        facts.now = time("2019-12-22T00:00:00Z");
    });
    only("trust-bundles", "- shop", |facts| facts.bundles = Ok(Vec::new()));
}

#[test]
fn workloads() {
    only("labels", "as an annotation instead of the label", |facts| {
        let other = namespace("other", &json!({}), &json!({ "weft.dev/inject": "enabled" }));
        facts.namespaces.as_mut().unwrap()[1] = other;
    });
    only("labels", "neither enabled nor disabled", |facts| {
        let other = namespace("other", &json!({ "weft.dev/inject": "true" }), &json!({}));
        facts.namespaces.as_mut().unwrap()[1] = other;
    });
    only("pod-security", "shop: enforces restricted", |facts| {
        let labels =
            json!({ "weft.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "restricted" });
        facts.namespaces.as_mut().unwrap()[0] = namespace("shop", &labels, &json!({}));
    });
    only("injected", "deployment/cart in namespace shop", |facts| {
        facts.pods.as_mut().unwrap().push(pod("shop", "cart", false));
    });
    only("ready", "weft-proxy waits for its certificate", |facts| {
        let pod = &mut facts.pods.as_mut().unwrap()[0];
        let status = pod.status.as_mut().unwrap();
        status.conditions.as_mut().unwrap()[0].status = "False".into();
        status.init_container_statuses.as_mut().unwrap()[0].started = Some(false);
    });
    only("(host-network)", "shop/agent-abc-1", |facts| {
        let mut agent = pod("shop", "agent", false);
        agent.spec.as_mut().unwrap().host_network = Some(true);
        facts.pods.as_mut().unwrap().push(agent);
    });
}

#[test]
fn what_is_left_behind_is_named_with_its_end() {
    let report = broken(|facts| {
        facts.deployment = Ok(None);
        facts.planes = Ok(Vec::new());
        facts.webhooks = Ok(None);
        facts.replicas.clear();
        facts.rehearsal = None;
        let ends = Some(time("2026-11-22T07:00:00Z"));
        let metrics = Metrics {
            certificate_ends: ends,
            ..Metrics::default()
        };
        facts.metrics.insert("shop/user-abc-1".into(), Ok(metrics));
    });
    assert_eq!(found(&report), ["installed", "orphans"], "{}", table(&report));
    let text = table(&report);
    assert!(
        text.contains("shop/user-abc-1: its certificate ends 2026-11-22T07:00:00Z"),
        "{text}"
    );
}

#[test]
fn the_mesh() {
    only("synced", "1 not acknowledged: Route user:80", |facts| {
        facts.replicas = replica("STALE");
    });
    only("accepted", "no such filter", |facts| {
        facts.replicas = replica("NACK");
    });
    only("connected", "shop/cart-abc-1", |facts| {
        facts.pods.as_mut().unwrap().push(pod("shop", "cart", true));
    });
    only(
        "in-force",
        "HTTPRoute shop/r on Service shop/user: Conflicted: because",
        |facts| {
            facts.objects = Ok(vec![route("False", "Conflicted")]);
        },
    );
    only("in-force", "Service shop/ext: Invalid: ExternalName", |facts| {
        let refused = json!({ "object": "Service shop/ext", "conditions": [{ "type": "Accepted", "status": "False",
            "reason": "Invalid", "message": "ExternalName" }] });
        let replica = facts
            .replicas
            .get_mut("weft-control-plane-1")
            .unwrap()
            .as_mut()
            .unwrap();
        replica.objects.objects.push(read(refused));
    });
    only("observed", "HTTPRoute shop/r on Service shop/user", |facts| {
        let mut route = route("True", "Accepted");
        route["status"] = json!({});
        facts.objects = Ok(vec![route]);
    });
    only(
        "(plaintext)",
        "deployment/user in namespace shop: 3 in plaintext on user:80",
        |facts| {
            let metrics = Metrics {
                plaintext: BTreeMap::from([("user:80".to_owned(), 3)]),
                ..Metrics::default()
            };
            facts.metrics.insert("shop/user-abc-1".into(), Ok(metrics));
        },
    );
}

#[test]
fn before_an_installation_only_its_ground_is_looked_at() {
    let mut facts = healthy();
    facts.deployment = Ok(None);
    assert!(weigh(&facts, true).healthy);
    facts.crds = Ok(Vec::new());
    let report = weigh(&facts, true);
    assert_eq!(found(&report), ["gateway-api"]);
    let remedy = report.checks.iter().find_map(|line| line.remedy.clone()).unwrap();
    assert!(
        remedy.starts_with("kubectl apply --server-side -f https://"),
        "{remedy}"
    );
}

#[test]
fn only_one_namespace_is_looked_at() {
    let report = broken(|facts| {
        facts.namespace = Some("other".into());
        facts.replicas = replica("NACK");
        facts.pods = Ok(vec![pod("other", "tool", false)]);
    });
    assert!(found(&report).is_empty(), "{}", table(&report));
}

#[test]
fn services() {
    only(
        "(ports)",
        "shop/user: port 80 (http) and port 81 (grpc) lead to port 8080",
        |facts| {
            facts.services = Ok(vec![service("shop", "http")]);
        },
    );
    only("ports", "ask for the right to list services", |facts| {
        facts.services = Err("forbidden".into());
    });
}
