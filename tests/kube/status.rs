//! What the control plane writes into the status of routes and policies, step by step as they change.

use k8s_openapi::api::events::v1::Event;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_tests::kube::{Kubernetes, until};

use crate::place::ControlPlane;

/// An API server with our kinds, and a control plane that reads from it and writes to it.
struct Mesh {
    kubernetes: Kubernetes,
    client: Client,
    _control_plane: ControlPlane,
    _folder: TempDir,
}

const CONTROLLER: &str = "weft.dev/control-plane";

impl Mesh {
    async fn start() -> Self {
        let kubernetes = Kubernetes::start();
        kubernetes.install_gateway_api().await;
        for crd in weft_api::crd::all() {
            let yaml = weft_api::yaml::to_string(&crd).expect("a CRD is YAML");
            kubernetes.apply(&yaml).await.expect("our CRDs are taken");
        }
        let wait = ["wait", "--for=condition=Established", "crd", "--all"];
        kubernetes.kubectl(&wait).await.expect("CRDs are served");
        for namespace in ["weft-system", "shop"] {
            let made = kubernetes.kubectl(&["create", "namespace", namespace]).await;
            made.expect("a namespace");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let plane =
            ControlPlane::start(kubernetes.kubeconfig(), folder.path(), "only", "127.0.0.1", &[]).await;
        Self {
            client: kubernetes.client().await,
            kubernetes,
            _control_plane: plane.ready().await,
            _folder: folder,
        }
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version) = match kind {
            "HTTPRoute" | "GRPCRoute" => ("gateway.networking.k8s.io", "v1"),
            _ => ("weft.dev", "v1alpha1"),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let plural = match kind {
            "TrafficPolicy" => "trafficpolicies",
            "MeshTLSPolicy" => "meshtlspolicies",
            _ => &resource.plural,
        };
        let resource = ApiResource {
            plural: plural.to_owned(),
            ..resource
        };
        Api::namespaced_with(self.client.clone(), "shop", &resource)
    }

    async fn apply(&self, yaml: &str) {
        self.kubernetes.apply(yaml).await.expect("a good object");
    }

    /// Waits until an object's conditions on its first parent or target are these: `type=status reason`.
    async fn becomes(&self, kind: &str, name: &str, expected: &[&str]) -> Value {
        let what = expected.join(", ");
        let object = until(self.api(kind), name, &what, |object| {
            let said = said(object, 0);
            expected.iter().all(|one| said.iter().any(|said| said == one))
        });
        serde_json::to_value(object.await).expect("an object is JSON")
    }
}

/// The entries of a status.
fn entries(object: &DynamicObject) -> Vec<Value> {
    let status = &object.data["status"];
    let entries = status["parents"]
        .as_array()
        .or_else(|| status["ancestors"].as_array());
    entries.cloned().unwrap_or_default()
}

/// The conditions of our `index`th entry, as `type=status reason`, those of another generation left out.
fn said(object: &DynamicObject, index: usize) -> Vec<String> {
    let ours = entries(object);
    let mut ours = ours.iter().filter(|entry| entry["controllerName"] == CONTROLLER);
    let Some(entry) = ours.nth(index) else {
        return Vec::new();
    };
    let conditions = entry["conditions"].as_array().into_iter().flatten();
    let of_now = conditions.filter(|one| one["observedGeneration"].as_i64() == object.metadata.generation);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of_now
        .map(|one| {
            format!(
                "{}={} {}",
                text(&one["type"]),
                text(&one["status"]),
                text(&one["reason"])
            )
        })
        .collect()
}

fn condition<'v>(object: &'v Value, kind: &str) -> &'v Value {
    let status = &object["status"];
    let entries = status["parents"]
        .as_array()
        .or_else(|| status["ancestors"].as_array());
    let ours = entries
        .into_iter()
        .flatten()
        .find(|entry| entry["controllerName"] == CONTROLLER);
    let mut conditions = ours
        .and_then(|entry| entry["conditions"].as_array())
        .expect("conditions")
        .iter();
    conditions
        .find(|condition| condition["type"] == kind)
        .expect("the condition")
}

fn service(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{ports: [{{name: http, port: \
         80}}, {{name: mysql, port: 3306, appProtocol: tcp}}]}}}}\n"
    )
}

fn route(kind: &str, name: &str, parent: &str, rule: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: shop}}, spec: \
         {{parentRefs: [{{group: '', kind: Service, {parent}}}], rules: [{rule}]}}}}\n"
    )
}

fn policy(kind: &str, name: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, namespace: shop}}, spec: {{{rest}}}}}\n"
    )
}

const TO_USER: &str = "{backendRefs: [{name: user, port: 80}]}";

#[tokio::test]
async fn the_status_of_a_route_follows_what_it_stands_on() {
    let mesh = Mesh::start().await;
    mesh.apply(&route("HTTPRoute", "r", "name: user", TO_USER)).await;
    let lost = [
        "Accepted=False NoMatchingParent",
        "ResolvedRefs=False BackendNotFound",
        "Programmed=False Invalid",
    ];
    mesh.becomes("HTTPRoute", "r", &lost).await;
    mesh.apply(&service("user")).await;
    let fine = [
        "Accepted=True Accepted",
        "ResolvedRefs=True ResolvedRefs",
        "Programmed=True Programmed",
    ];
    let object = mesh.becomes("HTTPRoute", "r", &fine).await;
    assert_eq!(condition(&object, "Programmed")["message"], "in use by no proxy");
    let reference = &object["status"]["parents"][0]["parentRef"];
    assert_eq!(
        *reference,
        json!({ "group": "", "kind": "Service", "name": "user" }),
        "as it is written"
    );
    let since = condition(&object, "Accepted")["lastTransitionTime"].clone();

    mesh.apply(&route(
        "HTTPRoute",
        "r",
        "name: user",
        "{backendRefs: [{name: cart, port: 80}]}",
    ))
    .await;
    let object = mesh
        .becomes(
            "HTTPRoute",
            "r",
            &["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"],
        )
        .await;
    assert_eq!(
        condition(&object, "Accepted")["lastTransitionTime"],
        since,
        "that has not changed"
    );
    for (parent, reason) in [
        ("name: user, port: 81", "NoMatchingParent"),
        ("name: user, port: 3306", "UnsupportedProtocol"),
        ("name: user, sectionName: http", "Accepted"),
    ] {
        mesh.apply(&route("HTTPRoute", "r", parent, TO_USER)).await;
        let truth = if reason == "Accepted" { "True" } else { "False" };
        mesh.becomes("HTTPRoute", "r", &[&format!("Accepted={truth} {reason}")])
            .await;
    }
    what_a_rule_can_not_say_is_refused(&mesh).await;
    mesh.apply(&route("HTTPRoute", "r", "name: user", TO_USER)).await;
    mesh.becomes("HTTPRoute", "r", &fine).await;
    mesh.apply(&route("GRPCRoute", "g", "name: user", TO_USER)).await;
    mesh.becomes("GRPCRoute", "g", &["Accepted=True Accepted"]).await;
    mesh.becomes("HTTPRoute", "r", &["Accepted=False Conflicted"])
        .await;
    mesh.kubernetes
        .kubectl(&["delete", "grpcroute", "g", "-n", "shop"])
        .await
        .expect("deleted");
    mesh.becomes("HTTPRoute", "r", &fine).await;
}

async fn what_a_rule_can_not_say_is_refused(mesh: &Mesh) {
    mesh.apply(&route(
        "HTTPRoute",
        "r",
        "name: user",
        "{filters: [{type: CORS, cors: {}}]}",
    ))
    .await;
    mesh.becomes("HTTPRoute", "r", &["Accepted=False UnsupportedValue"])
        .await;
    let regex = "{matches: [{path: {type: RegularExpression, value: '/('}}]}";
    mesh.apply(&route("HTTPRoute", "r", "name: user", regex)).await;
    mesh.becomes("HTTPRoute", "r", &["Accepted=False Invalid"]).await;
}

#[tokio::test]
async fn what_other_controllers_say_stays_and_a_parent_of_theirs_is_none_of_ours() {
    let mesh = Mesh::start().await;
    mesh.apply(&service("user")).await;
    let both = route("HTTPRoute", "r", "name: user", TO_USER)
        .replace("parentRefs: [", "parentRefs: [{name: gateway}, ");
    mesh.apply(&both).await;
    mesh.becomes("HTTPRoute", "r", &["Accepted=True Accepted"]).await;
    let theirs = json!({ "parentRef": { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway" },
        "controllerName": "example.com/gateway", "conditions": [{ "type": "Accepted", "status": "False", "reason": "Other",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
    let api = mesh.api("HTTPRoute");
    let mut all = entries(&api.get("r").await.expect("the route"));
    assert_eq!(all.len(), 1, "the Gateway is somebody else's");
    all.push(theirs.clone());
    let patch = Patch::Merge(json!({ "status": { "parents": all } }));
    api.patch_status("r", &PatchParams::default(), &patch)
        .await
        .expect("their status");
    mesh.apply(&both.replace("port: 80}", "port: 99}")).await;
    mesh.becomes("HTTPRoute", "r", &["ResolvedRefs=False BackendNotFound"])
        .await;
    let now = entries(&api.get("r").await.expect("the route"));
    assert_eq!(now.len(), 2);
    assert!(now.contains(&theirs), "{now:#?}");
}

#[tokio::test]
async fn of_two_policies_the_older_counts_and_people_hear_of_it_once() {
    let mesh = Mesh::start().await;
    mesh.apply(&service("user")).await;
    let target = "targetRefs: [{group: '', kind: Service, name: user}]";
    mesh.apply(&policy("TrafficPolicy", "a", target)).await;
    let fine = [
        "Accepted=True Accepted",
        "ResolvedRefs=True ResolvedRefs",
        "Programmed=True Programmed",
    ];
    mesh.becomes("TrafficPolicy", "a", &fine).await;
    mesh.apply(&policy("TrafficPolicy", "b", target)).await;
    mesh.becomes("TrafficPolicy", "b", &["Accepted=False Conflicted"])
        .await;
    let events: Api<Event> = Api::namespaced(mesh.client.clone(), "shop");
    let conflicts = || async {
        let all = events.list(&ListParams::default()).await.expect("events").items;
        let conflicts = all
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some("Conflicted"));
        conflicts.collect::<Vec<_>>()
    };
    mesh.apply(&policy(
        "MeshTLSPolicy",
        "m",
        "targetRefs: [{group: '', kind: Namespace, name: shop}], mode: Strict",
    ))
    .await;
    mesh.becomes("MeshTLSPolicy", "m", &fine).await;
    mesh.apply(&policy(
        "MeshTLSPolicy",
        "elsewhere",
        "targetRefs: [{group: '', kind: Namespace, name: other}], mode: Strict",
    ))
    .await;
    mesh.becomes("MeshTLSPolicy", "elsewhere", &["Accepted=False Invalid"])
        .await;
    let heard = conflicts().await;
    assert_eq!(heard.len(), 1, "{heard:#?}");
    assert_eq!(heard[0].type_.as_deref(), Some("Warning"));
    assert_eq!(
        heard[0]
            .regarding
            .as_ref()
            .and_then(|object| object.name.as_deref()),
        Some("b")
    );

    mesh.kubernetes
        .kubectl(&["delete", "trafficpolicy", "a", "-n", "shop"])
        .await
        .expect("deleted");
    mesh.becomes("TrafficPolicy", "b", &fine).await;
    mesh.kubernetes
        .kubectl(&["delete", "service", "user", "-n", "shop"])
        .await
        .expect("deleted");
    mesh.becomes("TrafficPolicy", "b", &["Accepted=False TargetNotFound"])
        .await;
}
