//! The chart on a real API server: installed, explained, in the way of nobody, and taken away.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use weft_tests::kube::{Kubernetes, until_gone};

use crate::place::found;

/// The chart, from the repository's root.
fn chart(name: &str) -> String {
    format!("{}/../charts/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Installs the chart with further settings. Nothing runs: there is no node.
async fn install(kubernetes: &Kubernetes, settings: &[&str]) {
    let weft = chart("weft");
    let always = [
        "install",
        "weft",
        &weft,
        "--namespace=weft-system",
        "--create-namespace",
    ];
    let installed = kubernetes
        .helm(&[&always, settings].concat())
        .await
        .expect("helm installs");
    assert!(installed.contains("weft check"), "the next command: {installed}");
    let wait = [
        "wait",
        "--for=condition=Established",
        "crd",
        "-l=gateway.networking.k8s.io/policy",
    ];
    kubernetes.kubectl(&wait).await.expect("our kinds are served");
}

#[tokio::test]
async fn the_chart_comes_changes_and_goes_and_leaves_the_crds() {
    let kubernetes = Kubernetes::start();
    install(&kubernetes, &[]).await;
    let client = kubernetes.client().await;
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let owner = roles
        .get("weft-control-plane")
        .await
        .unwrap()
        .metadata
        .uid
        .unwrap();
    let made = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: made-at-run-time\n  namespace: default\n  ownerReferences: \
         [{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, name: weft-control-plane, uid: {owner}}}]\n"
    );
    kubernetes.apply(&made).await.unwrap();
    let ha = format!("--values={}/values-ha.yaml", chart("weft"));
    let upgrade = ["upgrade", "weft", &chart("weft"), "--namespace=weft-system", &ha];
    kubernetes.helm(&upgrade).await.unwrap();
    let replicas = [
        "get",
        "deploy",
        "weft-control-plane",
        "-n=weft-system",
        "-o=jsonpath={.spec.replicas}",
    ];
    assert_eq!(kubernetes.kubectl(&replicas).await.unwrap(), "3");
    kubernetes
        .helm(&["uninstall", "weft", "--namespace=weft-system"])
        .await
        .unwrap();
    until_gone(
        Api::<ConfigMap>::namespaced(client, "default"),
        "made-at-run-time",
    )
    .await;
    let left = "get all,cm,secret,sa,role,rolebinding,pdb,netpol,clusterrole,clusterrolebinding,\
                mutatingwebhookconfiguration -A -l app.kubernetes.io/part-of=weft -o name";
    let left = kubernetes
        .kubectl(&left.split_whitespace().collect::<Vec<_>>())
        .await;
    assert_eq!(left.unwrap(), "");
    let crds = kubernetes.kubectl(&["get", "crd", "-o=name"]).await.unwrap();
    assert_eq!(crds.matches(".weft.dev").count(), 2, "{crds}");
}

/// A pod that asks for nothing.
fn pod(namespace: &str, name: &str, metadata: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}{metadata}}}\n\
         spec: {{containers: [{{name: it, image: it}}]}}\n"
    )
}

#[tokio::test]
async fn without_an_injector_only_pods_of_the_mesh_wait() {
    let kubernetes = Kubernetes::start();
    install(&kubernetes, &["--set=injector.timeoutSeconds=1"]).await;
    let meshed = kubernetes.namespace("meshed").await;
    let other = kubernetes.namespace("other").await;
    let label = ["label", "namespace", &meshed, "weft.dev/inject=enabled"];
    kubernetes.kubectl(&label).await.unwrap();
    for namespace in [meshed.as_str(), &other, "kube-system", "weft-system"] {
        let account = [
            "wait",
            "--for=create",
            "sa/default",
            "-n",
            namespace,
            "--timeout=60s",
        ];
        kubernetes.kubectl(&account).await.expect("pods need an account");
    }
    let inject = |value: &str| format!(", annotations: {{weft.dev/inject: {value}}}");
    let labelled = |value: &str| format!(", labels: {{weft.dev/inject: {value}}}");
    let taken = [
        (&other, "plain", String::new()),
        (&other, "out", inject("disabled")),
        (&other, "label-out", labelled("disabled")),
        (
            &other,
            "annotation-first",
            format!("{}{}", inject("disabled"), labelled("enabled")),
        ),
        (&meshed, "opted-out", inject("disabled")),
        (&"kube-system".to_owned(), "system", inject("enabled")),
        (&"weft-system".to_owned(), "ours", inject("enabled")),
    ];
    for (namespace, name, metadata) in taken {
        kubernetes.apply(&pod(namespace, name, &metadata)).await.unwrap();
    }
    let waiting = [
        (&meshed, "meshed", String::new(), "namespaces.inject.weft.dev"),
        (&other, "opted-in", inject("enabled"), "workloads.inject.weft.dev"),
        (
            &other,
            "label-in",
            labelled("enabled"),
            "workloads.inject.weft.dev",
        ),
        // The injector has the words for these.
        (
            &other,
            "meant-in",
            inject("on-please"),
            "workloads.inject.weft.dev",
        ),
        (
            &other,
            "label-meant-in",
            labelled("Enabled"),
            "workloads.inject.weft.dev",
        ),
    ];
    for (namespace, name, metadata, webhook) in waiting {
        let refused = kubernetes.apply(&pod(namespace, name, &metadata)).await;
        let refused = refused.expect_err(name);
        assert!(refused.contains(webhook), "{name}: {refused}");
    }
}

#[tokio::test]
async fn our_kinds_are_found_and_explained() {
    let kubernetes = Kubernetes::start();
    kubernetes
        .helm(&["install", "weft-crds", &chart("weft-crds")])
        .await
        .unwrap();
    let wait = ["wait", "--for=condition=Established", "crd", "--all"];
    kubernetes.kubectl(&wait).await.expect("our kinds are served");
    // A definition that is established is described a moment later.
    let document = ["get", "--raw", "/openapi/v3/apis/weft.dev/v1alpha1"];
    found("our kinds are described", async || {
        let described = kubernetes.kubectl(&document).await.ok()?;
        let both = ["TrafficPolicy\"", "MeshTLSPolicy\""].map(|kind| described.contains(kind));
        (both == [true, true]).then_some(())
    })
    .await;
    let kinds = kubernetes
        .kubectl(&["api-resources", "--categories=weft-policy", "-o=name"])
        .await
        .unwrap();
    assert_eq!(kinds, "meshtlspolicies.weft.dev\ntrafficpolicies.weft.dev\n");
    for (field, text) in [
        ("trafficpolicy", "Says how the mesh's callers treat a Service"),
        (
            "tp.spec.targetRefs.sectionName",
            "Name of one port of the Service.",
        ),
        ("tp.spec.balancer.algorithm", "RoundRobin: in turn."),
        ("tp.spec.outlier.baseEjection", "Default 10s."),
        ("tp.spec.retry.grpcCodes", "gRPC status codes that are retried."),
        (
            "mtls.spec.mode",
            "Strict: only callers with a certificate of this mesh.",
        ),
        (
            "mtls.status.ancestors.conditions.reason",
            "Why, in one word for programs.",
        ),
    ] {
        let told = kubernetes.kubectl(&["explain", field]).await.unwrap();
        let words = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(text), "{field}: {told}");
        assert!(!told.contains("<no description>"), "{field}: {told}");
    }
}

#[tokio::test]
async fn a_list_of_policies_says_what_matters() {
    let kubernetes = Kubernetes::start();
    kubernetes
        .helm(&["install", "weft-crds", &chart("weft-crds")])
        .await
        .unwrap();
    let wait = ["wait", "--for=condition=Established", "crd", "--all"];
    kubernetes.kubectl(&wait).await.expect("our kinds are served");
    let policy = "apiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {name: it, namespace: default}\n\
                  spec: {targetRefs: [{group: '', kind: Namespace, name: default}], mode: Permissive}\n";
    kubernetes.apply(policy).await.unwrap();
    let status = r#"{"status":{"ancestors":[{"ancestorRef":{"group":"","kind":"Namespace","name":"default"},
        "controllerName":"weft.dev/control-plane","conditions":[
        {"type":"Accepted","status":"True","reason":"Accepted","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"},
        {"type":"Programmed","status":"True","reason":"Programmed","message":"412/412 proxies",
         "lastTransitionTime":"2026-01-01T00:00:00Z"}]}]}}"#;
    let patch = [
        "patch",
        "mtls",
        "it",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    kubernetes.kubectl(&patch).await.unwrap();
    let list = kubernetes.kubectl(&["get", "mtls", "-o=wide"]).await.unwrap();
    let [heads, row] = list.lines().collect::<Vec<_>>()[..] else {
        panic!("{list}")
    };
    let heads: Vec<_> = heads.split_whitespace().collect();
    let expected = [
        "NAME",
        "MODE",
        "TARGET",
        "ACCEPTED",
        "PROGRAMMED",
        "PROXIES",
        "REASON",
        "AGE",
    ];
    assert_eq!(heads, expected);
    assert!(
        row.contains("Permissive") && row.contains("412/412 proxies"),
        "{row}"
    );
    let bad = status.replace(
        "\"True\",\"reason\":\"Programmed\"",
        "\"Maybe\",\"reason\":\"Programmed\"",
    );
    let patch = [
        "patch",
        "mtls",
        "it",
        "--subresource=status",
        "--type=merge",
        "-p",
        &bad,
    ];
    let refused = kubernetes.kubectl(&patch).await.expect_err("no such status");
    assert!(refused.contains("Unsupported value: \"Maybe\""), "{refused}");
}
