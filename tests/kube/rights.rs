//! What the chart grants is what is asked for: of a run that uses everything, the API server's audit log names each
//! right, and nothing that was refused.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::api::{PostParams, WatchParams};
use serde_json::{Value, json};
use weft_tests::kube::{PATIENCE, until};
use weft_tests::process::weft_binary;

use crate::installed::{Installed, NAME, SHOP, SYSTEM};
use crate::line::Line;
use crate::place::found;

/// The account of the control plane, as a user.
const CONTROL_PLANE: &str = "system:serviceaccount:weft-system:weft-control-plane";

/// A person's account.
const EDITOR: &str = "system:serviceaccount:shop:editor";

/// How often the control plane's connections to the API server are cut.
const CUT_EVERY: Duration = Duration::from_secs(5);

/// The resource on which no request is ever made: whoever writes a signer's bundle has to have its verb.
const SIGNERS: &str = "signers";

/// One verb on one resource, of one object or of all.
#[derive(Clone, Debug)]
struct Right {
    namespace: Option<String>,
    group: String,
    resource: String,
    name: Option<String>,
    verb: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            resource,
            verb,
            ..
        } = self;
        let name = self.name.as_deref().unwrap_or("*");
        write!(f, "{verb} {group}/{resource}[{name}]")
    }
}

impl Right {
    /// Whether `user` made use of it in this request.
    fn allowed(&self, user: &str, event: &Value) -> bool {
        let about = &event["objectRef"];
        let text = |key: &str| about[key].as_str().unwrap_or_default();
        let resource = match text("subresource") {
            "" => text("resource").to_owned(),
            part => format!("{}/{part}", text("resource")),
        };
        event["user"]["username"] == user
            && event["annotations"]["authorization.k8s.io/decision"] == "allow"
            && event["verb"] == *self.verb
            && text("apiGroup") == self.group
            && resource == self.resource
            && self.name.as_deref().is_none_or(|name| name == text("name"))
            && self
                .namespace
                .as_deref()
                .is_none_or(|namespace| namespace == text("namespace"))
    }
}

/// Every single right in the rules of a role.
fn singly(rules: Option<Vec<PolicyRule>>, namespace: Option<&str>) -> Vec<Right> {
    let mut rights = Vec::new();
    for rule in rules.into_iter().flatten() {
        let mut names: Vec<_> = rule.resource_names.into_iter().flatten().map(Some).collect();
        if names.is_empty() {
            names.push(None);
        }
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for name in &names {
                    rights.extend(rule.verbs.iter().map(|verb| Right {
                        namespace: namespace.map(ToOwned::to_owned),
                        group: group.clone(),
                        resource: resource.clone(),
                        name: name.clone(),
                        verb: verb.clone(),
                    }));
                }
            }
        }
    }
    rights
}

/// Waits until `user` has made use of all these.
async fn used(mesh: &Installed, user: &str, rights: Vec<Right>) {
    assert!(!rights.is_empty());
    let mut left = rights;
    let using = async {
        loop {
            let events = mesh.audit();
            left.retain(|right| !events.iter().any(|event| right.allowed(user, event)));
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, using).await;
    let left: Vec<_> = left.iter().map(ToString::to_string).collect();
    assert!(done.is_ok(), "granted to {user}, and never used: {left:#?}");
}

/// Waits until a request about a resource was answered with a status.
async fn answered(mesh: &Installed, verb: &str, resource: &str, code: u64) {
    let is_it = |event: &Value| {
        event["verb"] == verb
            && event["objectRef"]["resource"] == resource
            && event["responseStatus"]["code"] == code
    };
    let look = async || mesh.audit().iter().any(is_it).then_some(());
    found(&format!("{verb} {resource} is answered with {code}"), look).await;
}

/// Whether the control plane may do this, as the API server goes by at the moment.
async fn may(mesh: &Installed, attributes: Value) -> bool {
    let review = json!({ "spec": { "user": CONTROL_PLANE, "resourceAttributes": attributes } });
    let review = serde_json::from_value(review).expect("a review");
    let reviews: Api<SubjectAccessReview> = Api::all(mesh.client.clone());
    let reviewed = reviews.create(&PostParams::default(), &review).await;
    let status = reviewed.expect("an answer").status;
    status.expect("an answer").allowed
}

/// Waits until the API server goes by it that the control plane may, or may not, vouch for the signer.
async fn may_attest(mesh: &Installed, wanted: bool) {
    let attest = json!({ "verb": "attest", "group": "certificates.k8s.io", "resource": SIGNERS, "name": "weft.dev/mesh" });
    let look = async || (may(mesh, attest.clone()).await == wanted).then_some(());
    found(&format!("may attest: {wanted}"), look).await;
}

/// Starts without the right to vouch for the signer: then the bundle isn't taken, and with it, it is.
async fn without_attest(mesh: &Installed) -> ClusterRole {
    let roles: Api<ClusterRole> = Api::all(mesh.client.clone());
    let whole = roles.get(NAME).await.expect("the role");
    let mut without = whole.clone();
    let fewer = without.rules.as_mut().expect("rules");
    fewer.retain(|rule| rule.resources.as_deref() != Some(&[SIGNERS.to_owned()][..]));
    assert_eq!(fewer.len() + 1, whole.rules.as_ref().map_or(0, Vec::len));
    roles
        .replace(NAME, &PostParams::default(), &without)
        .await
        .expect("replaced");
    may_attest(mesh, false).await;
    whole
}

async fn with_attest(mesh: &Installed, whole: ClusterRole) {
    let roles: Api<ClusterRole> = Api::all(mesh.client.clone());
    let patch = Patch::Merge(json!({ "rules": whole.rules }));
    roles
        .patch(NAME, &PatchParams::default(), &patch)
        .await
        .expect("as it was");
    may_attest(mesh, true).await;
}

const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: user, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{name: grpc, port: 80}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: user, namespace: shop}, spec:
  {parentRefs: [{group: '', kind: Service, name: user}], rules: [{backendRefs: [{name: user, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: cart, namespace: shop}, spec:
  {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: cart, port: 80}]}]}}
---
{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: user, namespace: shop}, spec:
  {targetRefs: [{group: '', kind: Service, name: user}]}}
---
{apiVersion: weft.dev/v1alpha1, kind: MeshTLSPolicy, metadata: {name: shop, namespace: shop}, spec:
  {targetRefs: [{group: '', kind: Namespace, name: shop}], mode: Strict}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: former, labels: {weft.dev/inject: enabled}}}
";

/// A pod that stays out of the mesh, twice: people are told, and told that it happened again.
async fn surprises(mesh: &Installed) {
    let host = "{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: shop}, spec: {hostNetwork: true, \
                containers: [{name: app, image: none}]}}";
    let delete = ["delete", "pod", "host", "--namespace", SHOP, "--now"];
    for (verb, code) in [("create", 201), ("patch", 200)] {
        mesh.kubernetes.apply(host).await.expect("admitted");
        answered(mesh, verb, "events", code).await;
        mesh.kubernetes.kubectl(&delete).await.expect("deleted");
    }
}

/// The bundle is edited in one namespace, and another one leaves the mesh.
async fn bundles(mesh: &Installed) {
    let edit = [
        "patch",
        "configmap",
        "weft-trust-bundle",
        "-n",
        SHOP,
        "-p",
        r#"{"data":{"ca.crt":"nonsense"}}"#,
    ];
    mesh.kubernetes.kubectl(&edit).await.expect("edited");
    mesh.bundle("former").await;
    let leave = ["label", "namespace", "former", "weft.dev/inject-"];
    mesh.kubernetes.kubectl(&leave).await.expect("labelled");
    answered(mesh, "delete", "configmaps", 200).await;
}

/// An exchange of the root is begun and given up.
async fn roots(mesh: &Installed) {
    for command in ["rotate --no-wait", "abort"] {
        let file = mesh.kubernetes.kubeconfig().display();
        let weft = weft_binary().display().to_string();
        let script = format!("\"$0\" ca {command} --kubeconfig {file}");
        let told = mesh.kubernetes.tool("bash", &["-c", &script, &weft], "").await;
        told.expect("weft ca");
        let verb = if command == "abort" { "patch" } else { "create" };
        answered(
            mesh,
            verb,
            "clustertrustbundles",
            if verb == "patch" { 200 } else { 201 },
        )
        .await;
    }
}

#[tokio::test]
async fn every_right_of_the_control_plane_is_used_and_none_is_missing() {
    let mesh = Installed::new().await;
    let role = without_attest(&mesh).await;
    let mut rights = singly(role.rules.clone(), None);
    rights.retain(|right| right.resource != SIGNERS);
    let own: Api<Role> = Api::namespaced(mesh.client.clone(), SYSTEM);
    let own = own.get(NAME).await.expect("the role");
    assert!(
        rights.iter().all(|right| right.resource != "secrets"),
        "of all namespaces"
    );
    rights.extend(singly(own.rules, Some(SYSTEM)));

    mesh.shop().await;
    let line = Line::to(&mesh.kubernetes).await;
    let credential = mesh.credential(SYSTEM, NAME, Some(line.address)).await;
    let plane = mesh.replica("weft-control-plane-only", &credential).await;
    answered(&mesh, "create", "clustertrustbundles", 403).await;
    with_attest(&mesh, role).await;

    mesh.kubernetes.apply(OBJECTS).await.expect("good objects");
    let _sidecar = mesh.sidecar("user", &plane, &[]).await;
    surprises(&mesh).await;
    bundles(&mesh).await;
    roots(&mesh).await;
    // A watch that breaks off goes on, once a list has said that the server's state has not gone back; one that had not
    // quite begun begins anew, without.
    let cutting = async {
        loop {
            line.cut();
            tokio::time::sleep(CUT_EVERY).await;
        }
    };
    tokio::select! {
        () = used(&mesh, CONTROL_PLANE, rights) => {}
        () = cutting => {}
    }

    let refused: Vec<Value> = mesh.audit();
    let refused = refused
        .iter()
        .filter(|event| event["user"]["username"] == CONTROL_PLANE)
        .filter(|event| event["annotations"]["authorization.k8s.io/decision"] != "allow")
        .map(ToString::to_string);
    assert_eq!(refused.collect::<Vec<_>>(), Vec::<String>::new());
    for verb in ["get", "list", "watch"] {
        let secrets = json!({ "verb": verb, "resource": "secrets" });
        assert!(!may(&mesh, secrets).await, "{verb} Secrets of all namespaces");
    }
}

/// Uses everything that a person who may edit has on policies of a kind.
async fn edit(client: &Client, kind: &str, plural: &str, spec: Value) {
    let known = GroupVersionKind::gvk("weft.dev", "v1alpha1", kind);
    let resource = ApiResource::from_gvk_with_plural(&known, plural);
    let policies = Api::<DynamicObject>::namespaced_with(client.clone(), SHOP, &resource);
    let mut policy = DynamicObject::new("it", &resource);
    policy.data = json!({ "spec": spec });
    let made = found("an editor may edit", async || {
        policies.create(&PostParams::default(), &policy).await.ok()
    });
    let made = made.await;
    policies
        .replace("it", &PostParams::default(), &made)
        .await
        .expect("replaced");
    let label = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    policies
        .patch("it", &PatchParams::default(), &label)
        .await
        .expect("patched");
    policies.get("it").await.expect("read");
    policies.list(&ListParams::default()).await.expect("listed");
    drop(
        policies
            .watch(&WatchParams::default(), "0")
            .await
            .expect("watched"),
    );
    policies
        .delete("it", &DeleteParams::default())
        .await
        .expect("deleted");
    let (how, all) = (DeleteParams::default(), ListParams::default());
    policies.delete_collection(&how, &all).await.expect("deleted");
}

#[tokio::test]
async fn whoever_may_edit_a_namespace_may_edit_its_policies() {
    let mesh = Installed::new().await;
    mesh.shop().await;
    for make in [
        "create serviceaccount editor",
        "create rolebinding editor --clusterrole=edit --serviceaccount=shop:editor",
    ] {
        let make: Vec<_> = make.split(' ').chain(["--namespace", SHOP]).collect();
        mesh.kubernetes.kubectl(&make).await.expect("made");
    }
    let roles: Api<ClusterRole> = Api::all(mesh.client.clone());
    let aggregated = |role: &ClusterRole| {
        let groups = role
            .rules
            .iter()
            .flatten()
            .flat_map(|rule| rule.api_groups.iter().flatten());
        groups.filter(|group| *group == "weft.dev").count() == 2
    };
    until(roles.clone(), "edit", "what the chart adds to it", aggregated).await;
    let client = mesh.credential(SHOP, "editor", None).await.client().await;
    let target = |kind: &str, name: &str| json!([{ "group": "", "kind": kind, "name": name }]);
    let spec = json!({ "targetRefs": target("Service", "user") });
    edit(&client, "TrafficPolicy", "trafficpolicies", spec).await;
    let spec = json!({ "targetRefs": target("Namespace", SHOP), "mode": "Strict" });
    edit(&client, "MeshTLSPolicy", "meshtlspolicies", spec).await;
    for role in ["weft-policies-view", "weft-policies-edit"] {
        let role = roles.get(role).await.expect("the role");
        used(&mesh, EDITOR, singly(role.rules, None)).await;
    }
}
