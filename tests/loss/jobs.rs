//! Pods that end, and applications that start before anything else.

use weft_tests::node::{TEST_IMAGE, apply, describe, kubectl, meshed_namespace, rolled_out};

use crate::pods::{echo, mesh};

#[tokio::test]
async fn a_job_finds_the_mesh_ready_and_completes() {
    let cluster = mesh().await;
    let namespace = meshed_namespace(cluster, "job").await;
    apply(cluster, &echo(&namespace, "echo", 1)).await;
    rolled_out(cluster, &namespace).await;
    // It asks as its first act, and only once: there is no time to become ready in.
    let job = format!(
        "
apiVersion: batch/v1
kind: Job
metadata: {{name: ask, namespace: {namespace}}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
        - {{name: app, image: '{TEST_IMAGE}', args: [ask, http, 'echo:80']}}
"
    );
    apply(cluster, &job).await;
    let complete = [
        "wait",
        "-n",
        &namespace,
        "--for=condition=Complete",
        "job/ask",
        "--timeout=60s",
    ];
    if let Err(why) = cluster.kubectl(&complete).await {
        let log = cluster
            .kubectl(&["logs", "-n", &namespace, "job/ask", "-c", "app"])
            .await;
        panic!("{why}: {log:?}\n{}", describe(cluster, &namespace).await);
    }
    kubectl(cluster, &format!("delete namespace {namespace} --wait=false")).await;
}
