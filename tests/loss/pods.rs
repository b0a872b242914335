//! Namespaces with applications that echo, and load on them from inside.

use serde_json::Value;
use weft_tests::kube::Kubernetes;

use crate::stage::{self, describe, kubectl, rolled_out};

/// The image of the tests' own programs.
pub(crate) const IMAGE: &str = "weft.test/test:1";

/// The cluster with a mesh in it; installed once.
pub(crate) async fn mesh() -> &'static Kubernetes {
    static INSTALLED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let cluster = Kubernetes::with_node();
    INSTALLED
        .get_or_init(|| async {
            stage::load_images(cluster).await;
            // Certificates that live for a minute are renewed all the time.
            let settings = ["controlPlane.replicas=2", "identity.leafLifetime=60s"];
            stage::install(cluster, &settings).await;
        })
        .await;
    cluster
}

/// A new namespace that is meshed.
pub(crate) async fn meshed_namespace(cluster: &Kubernetes, prefix: &str) -> String {
    let namespace = cluster.namespace(prefix).await;
    kubectl(
        cluster,
        &format!("label namespace {namespace} weft.dev/inject=enabled"),
    )
    .await;
    namespace
}

/// A deployment `name` that echoes, with a Service that names each port's protocol. A port of a pod has one protocol,
/// so gRPC has a container of its own.
pub(crate) fn echo(namespace: &str, name: &str, replicas: u32) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {name}}}
  ports:
    - {{name: http, port: 80, targetPort: 8080, appProtocol: http}}
    - {{name: grpc, port: 81, targetPort: 8081, appProtocol: grpc}}
    - {{name: tcp, port: 82, targetPort: 9000, appProtocol: tcp}}
    - {{name: unknown, port: 83, targetPort: 9001}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
        - name: app
          image: {IMAGE}
          args: [serve, --name, {name}]
          readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
          lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}
        - name: grpc
          image: {IMAGE}
          args: [serve, --name, {name}, --http, '[::]:8081', --tcp, '[::]:9002', --banner, '[::]:9003']
          lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}
"
    )
}

/// A pod that sends every kind of traffic to `echo` until it is told to stop.
fn load(namespace: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: load, namespace: {namespace}}}
spec:
  restartPolicy: Never
  containers:
    - name: app
      image: {IMAGE}
      args: [load, --http1, 'echo:80', --http2, 'echo:81', --tcp, 'echo:82']
"
    )
}

/// Applies YAML, which must be accepted.
pub(crate) async fn apply(cluster: &Kubernetes, yaml: &str) {
    cluster.apply(yaml).await.expect("the server takes it");
}

/// A meshed namespace with two replicas of `echo` and load on them.
pub(crate) async fn under_load(cluster: &Kubernetes, prefix: &str) -> String {
    let namespace = meshed_namespace(cluster, prefix).await;
    apply(cluster, &echo(&namespace, "echo", 2)).await;
    rolled_out(cluster, &namespace).await;
    apply(cluster, &load(&namespace)).await;
    let ready = [
        "wait",
        "-n",
        &namespace,
        "--for=condition=Ready",
        "pod/load",
        "--timeout=60s",
    ];
    if let Err(why) = cluster.kubectl(&ready).await {
        panic!("{why}\n{}", describe(cluster, &namespace).await);
    }
    namespace
}

/// Waits until the load has sent `count` more, by reading its log.
pub(crate) async fn more(cluster: &Kubernetes, namespace: &str, count: u64) {
    let goal = sent(cluster, namespace).await + count;
    let deadline = std::time::Instant::now() + weft_tests::kube::PATIENCE;
    while sent(cluster, namespace).await < goal {
        assert!(std::time::Instant::now() < deadline, "the load stands still");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

async fn sent(cluster: &Kubernetes, namespace: &str) -> u64 {
    let log = kubectl(cluster, &format!("logs -n {namespace} load -c app --tail=1")).await;
    let line: Value = serde_json::from_str(log.trim()).unwrap_or_default();
    line["sent"].as_u64().unwrap_or_default()
}

/// Stops the load; all that it sent must have been answered. Answers how much that was.
pub(crate) async fn none_failed(cluster: &Kubernetes, namespace: &str) -> u64 {
    kubectl(cluster, &format!("exec -n {namespace} load -c app -- /pod stop")).await;
    // The pod ends with its application: the sidecar does not keep it.
    let ended =
        format!("wait -n {namespace} --for=jsonpath={{.status.phase}}=Succeeded pod/load --timeout=60s");
    kubectl(cluster, &ended).await;
    let log = kubectl(cluster, &format!("logs -n {namespace} load -c app --tail=1")).await;
    let line: Value = serde_json::from_str(log.trim()).expect("its last line is JSON");
    let sent = line["total"]["sent"].as_u64().expect("it counts");
    assert_eq!(line["total"]["failed"], 0, "{line:#}");
    println!("{namespace}: 0 of {sent} failed");
    kubectl(cluster, &format!("delete namespace {namespace} --wait=false")).await;
    sent
}
