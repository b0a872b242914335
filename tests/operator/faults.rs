//! Broken installations: one real fault after the other, each named by `weft check` with a remedy and exit code 1, and
//! gone from its report when it is mended.

use std::time::Instant;

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use weft_tests::kube::{Kubernetes, PATIENCE};
use weft_tests::node::{self, Check, GLANCE, SYSTEM, apply, check, forget, kubectl, meshed_namespace, ready};

use crate::turn::alone;

/// A fault.
struct Fault {
    /// The check that finds it.
    check: &'static str,
    /// What is said of it.
    says: &'static str,
    /// What is told to do.
    remedy: &'static str,
    /// How it is made.
    breaks: How,
    /// How it is mended.
    mends: How,
}

/// How something is made or mended.
enum How {
    /// By kubectl; an argument has no spaces.
    Kubectl(&'static str),
    /// By applying YAML, in which `NAMESPACE` is the meshed one.
    Apply(&'static str),
    /// By the remedy that most faults have: `helm upgrade`.
    Helm,
    /// By taking a verb on a resource from a role: kind, resource, verb.
    Without(&'static str, &'static str, &'static str),
}

const FAULTS: [Fault; 14] = [
    Fault {
        check: "ready",
        says: "its Deployment is scaled to 0",
        remedy: "kubectl describe deployment/weft-control-plane",
        breaks: How::Kubectl("scale deployment weft-control-plane -n weft-system --replicas=0"),
        mends: How::Kubectl("scale deployment weft-control-plane -n weft-system --replicas=1"),
    },
    Fault {
        check: "ready",
        says: "ErrImagePull",
        remedy: "kubectl describe deployment/weft-control-plane",
        breaks: How::Kubectl(
            "set image -n weft-system deployment/weft-control-plane control-plane=weft.test/none:1",
        ),
        mends: How::Kubectl("rollout undo -n weft-system deployment/weft-control-plane"),
    },
    Fault {
        check: "service",
        says: "leads to none of its pods",
        remedy: "kubectl get service,endpointslices -n weft-system; helm upgrade",
        breaks: How::Kubectl(
            "patch service weft-control-plane -n weft-system -p {\"spec\":{\"selector\":{\"app\":\"none\"}}}",
        ),
        mends: How::Kubectl(
            "patch service weft-control-plane -n weft-system -p {\"spec\":{\"selector\":{\"app\":null}}}",
        ),
    },
    Fault {
        check: "webhooks",
        says: "weft-injector is missing",
        remedy: "helm upgrade",
        breaks: How::Kubectl("delete mutatingwebhookconfiguration weft-injector"),
        mends: How::Helm,
    },
    Fault {
        check: "webhooks",
        says: "namespaces.inject.weft.dev fails open",
        remedy: "helm upgrade",
        breaks: How::Kubectl(
            "patch mutatingwebhookconfiguration weft-injector -p \
             {\"webhooks\":[{\"name\":\"namespaces.inject.weft.dev\",\"failurePolicy\":\"Ignore\"}]}",
        ),
        mends: How::Helm,
    },
    Fault {
        check: "crds",
        says: "trafficpolicies.weft.dev is missing",
        remedy: "helm upgrade",
        breaks: How::Kubectl("delete crd trafficpolicies.weft.dev"),
        mends: How::Helm,
    },
    Fault {
        check: "crds",
        says: "meshtlspolicies.weft.dev doesn't serve v1alpha1",
        remedy: "helm upgrade",
        breaks: How::Kubectl(OLD_CRD),
        mends: How::Helm,
    },
    Fault {
        check: "control-plane-rights",
        says: "watch services",
        remedy: "helm upgrade",
        breaks: How::Kubectl("delete clusterrolebinding weft-control-plane"),
        mends: How::Helm,
    },
    Fault {
        check: "leader",
        says: "the Lease has run out",
        remedy: "check its rights on leases",
        breaks: How::Without("role", "leases", "patch"),
        mends: How::Helm,
    },
    Fault {
        check: "labels",
        says: "default: carries weft.dev/inject as an annotation instead of the label",
        remedy: "kubectl label namespace NAME weft.dev/inject=enabled",
        breaks: How::Kubectl("annotate namespace default weft.dev/inject=enabled"),
        mends: How::Kubectl("annotate namespace default weft.dev/inject-"),
    },
    Fault {
        check: "injected",
        says: "pod/late in namespace default",
        remedy: "kubectl rollout restart",
        breaks: How::Kubectl("label namespace default weft.dev/inject=enabled"),
        mends: How::Kubectl("label namespace default weft.dev/inject-"),
    },
    Fault {
        check: "pod-security",
        says: "default: enforces baseline",
        remedy: "pod-security.kubernetes.io/enforce=privileged",
        breaks: How::Kubectl(
            "label namespace default weft.dev/inject=enabled pod-security.kubernetes.io/enforce=baseline",
        ),
        mends: How::Kubectl("label namespace default weft.dev/inject- pod-security.kubernetes.io/enforce-"),
    },
    Fault {
        check: "in-force",
        says: "HTTPRoute NAMESPACE/lost on Service NAMESPACE/child:80: BackendNotFound",
        remedy: "weft status routes",
        breaks: How::Apply(LOST_ROUTE),
        mends: How::Kubectl("delete httproute lost -n NAMESPACE"),
    },
    Fault {
        check: "in-force",
        says: "Service NAMESPACE/elsewhere",
        remedy: "mend what the reason names",
        breaks: How::Apply(EXTERNAL_NAME),
        mends: How::Kubectl("delete service elsewhere -n NAMESPACE"),
    },
];

/// As an older release might have left it.
const OLD_CRD: &str = "patch crd meshtlspolicies.weft.dev --type=json -p \
    [{\"op\":\"add\",\"path\":\"/spec/versions/0\",\"value\":{\"name\":\"v1alpha0\",\"served\":true,\"storage\":false,\
    \"schema\":{\"openAPIV3Schema\":{\"type\":\"object\"}}}},\
    {\"op\":\"replace\",\"path\":\"/spec/versions/1/served\",\"value\":false}]";

const LOST_ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: child, port: 80}]
  rules: [{backendRefs: [{name: nobody, port: 80}]}]
";

const EXTERNAL_NAME: &str = "
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: NAMESPACE}
spec: {type: ExternalName, externalName: example.org}
";

/// What is called in the meshed namespace.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: child, namespace: NAMESPACE}
spec:
  selector: {app: child}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]
";

impl How {
    async fn carry_out(&self, cluster: &Kubernetes, namespace: &str) {
        let here = |text: &str| text.replace("NAMESPACE", namespace);
        match self {
            Self::Kubectl(command) => drop(kubectl(cluster, &here(command)).await),
            Self::Apply(yaml) => apply(cluster, &here(yaml)).await,
            Self::Helm => upgrade(cluster).await,
            Self::Without(kind, resource, verb) => without(cluster, kind, resource, verb).await,
        }
    }
}

#[tokio::test]
async fn every_fault_is_named_with_a_remedy_until_it_is_mended() {
    let (cluster, _turn) = alone().await;
    node::install(cluster, &[]).await;
    let namespace = meshed_namespace(cluster, "faults").await;
    apply(cluster, &SERVICE.replace("NAMESPACE", &namespace)).await;
    apply(cluster, &node::pod(&namespace, "child")).await;
    apply(cluster, &node::pod("default", "late")).await;
    ready(cluster, &namespace, "child").await;
    ready(cluster, "default", "late").await;
    nothing_failed(cluster, "the installation is whole").await;

    for fault in &FAULTS {
        let begun = Instant::now();
        fault.breaks.carry_out(cluster, &namespace).await;
        let says = fault.says.replace("NAMESPACE", &namespace);
        named(cluster, fault.check, &says, fault.remedy).await;
        fault.mends.carry_out(cluster, &namespace).await;
        nothing_failed(cluster, &says).await;
        println!("{:5.1} s  {}: {says}", begun.elapsed().as_secs_f64(), fault.check);
    }
    a_foreign_authority_is_named(cluster).await;
    node::uninstall(cluster).await;
    kubectl(cluster, "delete pod late -n default --wait=false").await;
    forget(cluster, &namespace).await;
}

/// Somebody has put another authority into the webhooks, and taken the right to mend that.
async fn a_foreign_authority_is_named(cluster: &Kubernetes) {
    without(cluster, "clusterrole", "mutatingwebhookconfigurations", "patch").await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let foreign = rcgen::CertificateParams::default()
        .self_signed(&key)
        .expect("a certificate");
    let bundle = ByteString(foreign.pem().into_bytes());
    let webhook = |name: &str| json!({ "name": name, "clientConfig": { "caBundle": bundle } });
    let names = ["namespaces.inject.weft.dev", "workloads.inject.weft.dev"];
    let patch = json!({ "webhooks": names.map(webhook) }).to_string();
    kubectl(
        cluster,
        &format!("patch mutatingwebhookconfiguration weft-injector -p {patch}"),
    )
    .await;
    named(
        cluster,
        "webhooks",
        "its CA certificate is none of the mesh's roots",
        "helm upgrade",
    )
    .await;
    upgrade(cluster).await;
    nothing_failed(cluster, "a foreign authority").await;
}

/// Waits until a check fails with these words and this remedy: what is broken shows some time later.
async fn named(cluster: &Kubernetes, name: &str, says: &str, remedy: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let checks = check(cluster, "").await;
        let failed: Vec<&Check> = checks.iter().filter(|check| check.outcome == "failed").collect();
        assert!(failed.iter().all(|check| !check.remedy.is_empty()), "{failed:#?}");
        let found = failed
            .iter()
            .find(|check| check.name == name && check.says.contains(says));
        if let Some(found) = found {
            assert!(found.remedy.contains(remedy), "{found:#?}");
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{name} does not say {says:?}: {failed:#?}"
        );
        tokio::time::sleep(GLANCE).await;
    }
}

/// Waits until no check fails.
async fn nothing_failed(cluster: &Kubernetes, after: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut checks = check(cluster, "").await;
        checks.retain(|check| check.outcome == "failed");
        if checks.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "after {after:?} is mended: {checks:#?}"
        );
        tokio::time::sleep(GLANCE).await;
    }
}

/// `helm upgrade`, as the remedies say.
async fn upgrade(cluster: &Kubernetes) {
    let upgraded = cluster
        .helm(&[
            "upgrade",
            "weft",
            &node::chart(),
            "-n",
            SYSTEM,
            "--reuse-values",
            "--force-conflicts",
            "--wait",
        ])
        .await;
    upgraded.unwrap_or_else(|why| panic!("helm upgrade: {why}"));
}

/// Takes a verb on a resource out of the control plane's role.
async fn without(cluster: &Kubernetes, kind: &str, resource: &str, verb: &str) {
    let role = kubectl(
        cluster,
        &format!("get {kind} weft-control-plane -n {SYSTEM} -o json"),
    )
    .await;
    let mut role: Value = serde_json::from_str(&role).expect("JSON");
    for rule in role["rules"].as_array_mut().expect("rules") {
        let meant = rule["resources"]
            .as_array()
            .is_some_and(|all| all.contains(&json!(resource)));
        if let Some(verbs) = rule["verbs"].as_array_mut().filter(|_| meant) {
            verbs.retain(|one| one != verb);
        }
    }
    let replaced = cluster
        .tool("kubectl", &["replace", "-f", "-"], &role.to_string())
        .await;
    replaced.unwrap_or_else(|why| panic!("{kind} without {verb} {resource}: {why}"));
}
