//! Two replicas of the control plane, as processes: both serve, one leads, and each is told what the other's proxies
//! have confirmed.

use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;
use weft_tests::kube::until;

use crate::installed::{Credential, Installed, NAME, SHOP, SYSTEM};
use crate::place::{ControlPlane, found};

/// What both sidecars use, and a route to it.
const USER: &str = "
{apiVersion: v1, kind: Service, metadata: {name: user, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: user, namespace: shop, labels:
  {kubernetes.io/service-name: user}}, addressType: IPv4, ports: [{name: http, port: 8080}],
  endpoints: [{addresses: [192.0.2.77], conditions: {ready: true}}]}
";

/// A sidecar's use of it.
const BIND: &str = "--bind=127.0.0.1:0=user.shop.svc.cluster.local:80";

struct Replica {
    plane: ControlPlane,
    credential: Credential,
}

impl Replica {
    async fn start(mesh: &Installed, name: &str) -> Self {
        let credential = mesh.credential(SYSTEM, NAME, None).await;
        Self {
            plane: mesh.replica(name, &credential).await,
            credential,
        }
    }
}

async fn route(mesh: &Installed, backend: &str) {
    let route = format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: user, namespace: shop}}, spec: \
         {{parentRefs: [{{group: '', kind: Service, name: user}}], rules: [{{backendRefs: [{{name: {backend}, port: \
         80}}]}}]}}}}"
    );
    mesh.kubernetes.apply(&route).await.expect("a route");
}

/// Waits until a condition of the route is of its newest generation and this: `status reason message`.
async fn says(mesh: &Installed, kind: &str, expected: &str) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "gateway.networking.k8s.io",
        "v1",
        "HTTPRoute",
    ));
    let routes = Api::<DynamicObject>::namespaced_with(mesh.client.clone(), SHOP, &resource);
    let is_so = |route: &DynamicObject| {
        let conditions = route
            .data
            .pointer("/status/parents/0/conditions")
            .and_then(Value::as_array);
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|one| {
            let of_now = one["observedGeneration"].as_i64() == route.metadata.generation;
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            let said = format!("{} {} {}", text("status"), text("reason"), text("message"));
            of_now && text("type") == kind && said.starts_with(expected)
        })
    };
    until(routes, "user", expected, is_so).await;
}

/// Everything that a replica has written since, but for attempts at the lease, and what was refused.
fn written(mesh: &Installed, by: &Replica, since: &str) -> Vec<Value> {
    let mut events = mesh.audit();
    events.retain(|event| {
        let credential = &event["user"]["extra"]["authentication.kubernetes.io/credential-id"][0];
        let writes = matches!(
            event["verb"].as_str(),
            Some("create" | "update" | "patch" | "delete")
        );
        let about = event["objectRef"]["resource"].as_str().unwrap_or_default();
        let taken = event["responseStatus"]["code"]
            .as_u64()
            .is_some_and(|code| code < 300);
        let after = event["requestReceivedTimestamp"].as_str().unwrap_or_default() > since;
        *credential == by.credential.id.as_str()
            && writes
            && taken
            && after
            && !matches!(about, "leases" | "tokenreviews")
    });
    events
}

#[tokio::test]
async fn a_leader_that_was_paused_or_killed_is_replaced_and_writes_nothing_stale() {
    let mesh = Installed::new().await;
    mesh.shop().await;
    let first = Replica::start(&mesh, "weft-control-plane-first").await;
    mesh.leads(&first.plane.pod).await;
    let second = Replica::start(&mesh, "weft-control-plane-second").await;
    mesh.kubernetes.apply(USER).await.expect("a Service");
    route(&mesh, "user").await;
    let _sidecars = [
        mesh.sidecar("of-first", &first.plane, &[BIND]).await,
        mesh.sidecar("of-second", &second.plane, &[BIND]).await,
    ];
    says(&mesh, "Programmed", "True Programmed 2/2 proxies").await;

    // Paused: the other leads, once the lease has run out, and nobody knows what the paused one's proxies have.
    first.plane.process.signal(libc::SIGSTOP);
    let since = mesh.leads(&second.plane.pod).await;
    let unknown = format!(
        "Unknown ReplicaUnreachable 1/1 proxies, without those of {}, which can't be reached",
        first.plane.pod
    );
    says(&mesh, "Programmed", &unknown).await;
    route(&mesh, "nowhere").await;
    says(&mesh, "ResolvedRefs", "False BackendNotFound").await;
    first.plane.process.signal(libc::SIGCONT);
    let knows = async || {
        first
            .plane
            .process
            .log()
            .contains("\"leads\":false")
            .then_some(())
    };
    found("the paused leader knows that it leads no longer", knows).await;
    says(&mesh, "Programmed", "True Programmed 2/2 proxies").await;
    route(&mesh, "user").await;
    says(&mesh, "ResolvedRefs", "True ResolvedRefs").await;
    assert_eq!(written(&mesh, &first, &since), Vec::<Value>::new());
    assert!(
        !written(&mesh, &second, &since).is_empty(),
        "the audit log tells nothing"
    );

    // Killed: its endpoint and its proxies are gone, and the one that is left leads again.
    let mut second = second;
    second.plane.process.kill().await;
    mesh.forget(&second.plane.pod).await;
    mesh.leads(&first.plane.pod).await;
    says(&mesh, "Programmed", "True Programmed 1/1 proxies").await;
    route(&mesh, "nowhere").await;
    says(&mesh, "ResolvedRefs", "False BackendNotFound").await;
}
