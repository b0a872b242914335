//! Namespaces with applications that echo, and load on them from inside.

use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::kube::{Kubernetes, PATIENCE};
use weft_tests::node::{self, GLANCE, TEST_IMAGE, apply, kubectl, ready};

/// How many of each kind of traffic run side by side: as much as two cores answer.
const WIDTH: usize = 2;

/// How long certificates live here: the shortest that is allowed, so that they are renewed all the time.
pub(crate) const LEAF_LIFE: Duration = Duration::from_mins(1);

/// The cluster with a mesh in it; installed once.
pub(crate) async fn mesh() -> &'static Kubernetes {
    static INSTALLED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let cluster = Kubernetes::with_node();
    INSTALLED
        .get_or_init(|| async {
            node::load_images(cluster).await;
            cluster.install_gateway_api().await;
            let life = format!("identity.leafLifetime={}s", LEAF_LIFE.as_secs());
            node::install(cluster, &["controlPlane.replicas=2", &life]).await;
        })
        .await;
    cluster
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
          image: {TEST_IMAGE}
          args: [serve, --name, {name}]
          readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
          lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}
        - name: grpc
          image: {TEST_IMAGE}
          args: [serve, --name, {name}, --http, '[::]:8081', --tcp, '[::]:9002', --banner, '[::]:9003']
          lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}
"
    )
}

/// A pod that sends every kind of traffic to `echo` until it is told to stop.
fn load(namespace: &str, name: &str, at: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  restartPolicy: Never
  containers:
    - name: app
      image: {TEST_IMAGE}
      args: [load, --http1, 'echo{at}:80', --http2, 'echo{at}:81', --tcp, 'echo{at}:82', --width, '{WIDTH}']
"
    )
}

/// Load on `echo`, from a pod.
pub(crate) struct Load<'a> {
    cluster: &'a Kubernetes,
    namespace: String,
    pod: &'static str,
}

/// What a load has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    sent: u64,
    failed: u64,
}

impl<'a> Load<'a> {
    /// Starts a pod in `namespace` that asks `echo` of the namespace `of`.
    pub(crate) async fn start(cluster: &'a Kubernetes, namespace: &str, pod: &'static str, of: &str) -> Self {
        apply(cluster, &load(namespace, pod, &format!(".{of}"))).await;
        ready(cluster, namespace, pod).await;
        Self {
            cluster,
            namespace: namespace.to_owned(),
            pod,
        }
    }

    /// Carries out `roll`; then at least `enough` must have been sent since it began, and none of it failed.
    pub(crate) async fn through(&self, what: &str, enough: u64, roll: impl Future<Output = ()>) {
        let before = self.counts().await.sent;
        roll.await;
        let counts = self.reaches(before + enough).await;
        println!("{what}: {} sent, {} failed", counts.sent - before, counts.failed);
        if counts.failed > 0 {
            self.stop().await;
            panic!("something was lost during {what}");
        }
    }

    /// Waits until so much was sent in all, by reading its log.
    pub(crate) async fn reaches(&self, goal: u64) -> Counts {
        let mut last = (0, Instant::now());
        loop {
            let counts = self.counts().await;
            if counts.sent >= goal {
                return counts;
            }
            if counts.sent > last.0 {
                last = (counts.sent, Instant::now());
            }
            assert!(last.1.elapsed() < PATIENCE, "the load stands still at {counts:?}");
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn counts(&self) -> Counts {
        let line = self.last_line().await;
        let number = |key: &str| line[key].as_u64().unwrap_or_default();
        Counts {
            sent: number("sent"),
            failed: number("failed"),
        }
    }

    async fn last_line(&self) -> Value {
        let log = format!("logs -n {} {} -c app --tail=1", self.namespace, self.pod);
        let log = kubectl(self.cluster, &log).await;
        serde_json::from_str(log.trim()).unwrap_or_default()
    }

    /// Stops it; all that it sent must have been answered. Answers how much that was.
    pub(crate) async fn stop(&self) -> u64 {
        let (cluster, namespace, pod) = (self.cluster, &self.namespace, self.pod);
        kubectl(cluster, &format!("exec -n {namespace} {pod} -c app -- /pod stop")).await;
        // The pod ends with its application: a sidecar does not keep it.
        let ended =
            format!("wait -n {namespace} --for=jsonpath={{.status.phase}}=Succeeded pod/{pod} --timeout=60s");
        kubectl(cluster, &ended).await;
        let total = self.last_line().await["total"].clone();
        let sent = total["sent"].as_u64().expect("it counts");
        assert_eq!(total["failed"], 0, "{total:#}");
        println!("{namespace}/{pod}: 0 of {sent} failed");
        sent
    }
}

/// What a pod gets that asks; the error is what it printed.
pub(crate) async fn ask(
    cluster: &Kubernetes,
    pod: (&str, &str),
    question: &[&str],
) -> Result<String, String> {
    let mut arguments = vec!["exec", "-n", pod.0, pod.1, "-c", "app", "--", "/pod", "ask"];
    arguments.extend(question);
    cluster.kubectl(&arguments).await
}
