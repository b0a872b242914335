//! Pods that controllers make.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio_stream::StreamExt;

use super::*;

impl Rig {
    /// The first pod of a namespace that satisfies `condition`, now or later.
    async fn pod_where(&self, namespace: &str, condition: impl Fn(&Pod) -> bool) -> Pod {
        let api: Api<Pod> = Api::namespaced(self.kubernetes.client().await, namespace);
        first(api, condition).await
    }

    /// The first event that satisfies `condition`, now or later.
    pub(super) async fn event(&self, events: &Api<Event>, condition: impl Fn(&Event) -> bool) -> Event {
        first(events.clone(), condition).await
    }
}

async fn first<K>(api: Api<K>, condition: impl Fn(&K) -> bool) -> K
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let seen = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let mut seen = std::pin::pin!(seen);
    let looking = async {
        while let Some(next) = seen.next().await {
            if let Ok(object) = next
                && condition(&object)
            {
                return object;
            }
        }
        panic!("the watch ended");
    };
    let found = tokio::time::timeout(weft_tests::kube::PATIENCE, looking).await;
    found.expect("an object like that appears")
}

fn template() -> Value {
    let mut pod = pod();
    pod["metadata"] = json!({ "labels": { "app": "cart" } });
    json!({ "metadata": pod["metadata"], "spec": pod["spec"] })
}

fn workload(kind: &str, name: &str) -> Value {
    let version = if kind == "Job" || kind == "CronJob" {
        "batch/v1"
    } else {
        "apps/v1"
    };
    let mut template = template();
    let selector = json!({ "matchLabels": { "app": "cart" } });
    let spec = match kind {
        "Job" | "CronJob" => {
            template["spec"]["restartPolicy"] = json!("Never");
            template["metadata"] = json!({});
            let job = json!({ "template": template });
            if kind == "Job" {
                job
            } else {
                json!({ "schedule": "0 0 1 1 *", "jobTemplate": { "spec": job } })
            }
        }
        "StatefulSet" => json!({ "selector": selector, "template": template, "serviceName": "cart" }),
        _ => json!({ "selector": selector, "template": template }),
    };
    json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// Whose pod it is, by its name.
async fn is_meshed_with_sidecar(rig: &Rig, namespace: &str, prefix: &str) {
    let of_workload = |pod: &Pod| {
        pod.metadata
            .name
            .as_deref()
            .is_some_and(|name| name.starts_with(prefix))
    };
    let pod = json!(rig.pod_where(namespace, of_workload).await);
    assert!(is_meshed(&pod), "{pod:#}");
    assert_eq!(pod["spec"]["initContainers"][1]["restartPolicy"], "Always");
    assert_eq!(
        pod["metadata"]["annotations"]["weft.dev/injected"],
        env!("CARGO_PKG_VERSION")
    );
}

#[tokio::test]
async fn pods_of_every_controller_are_injected() {
    let rig = Rig::shared();
    let meshed = rig.namespace(&[ENABLED]).await;
    // No kubelet stands behind it, but the controller of daemons counts it.
    let node =
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("node-{meshed}") } });
    rig.kubernetes.apply(&node.to_string()).await.expect("a node");
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"] {
        let name = kind.to_lowercase();
        rig.create(&meshed, &workload(kind, &name), &[])
            .await
            .expect("a good workload");
        if kind == "CronJob" {
            let now = ["create", "job", "-n", &meshed, "now", "--from=cronjob/cronjob"];
            rig.kubernetes.kubectl(&now).await.expect("a job");
            is_meshed_with_sidecar(rig, &meshed, "now-").await;
        } else {
            is_meshed_with_sidecar(rig, &meshed, &format!("{name}-")).await;
        }
    }
}

#[tokio::test]
async fn a_workload_that_is_refused_says_so_at_its_controller() {
    let rig = Rig::shared();
    let meshed = rig.namespace(&[ENABLED]).await;
    let mut bad = workload("Deployment", "cart");
    bad["spec"]["template"]["metadata"]["annotations"] = json!({ "weft.dev/proxy-cpu": "much" });
    rig.create(&meshed, &bad, &[])
        .await
        .expect("templates are not looked at");
    let events: Api<Event> = Api::namespaced(rig.kubernetes.client().await, &meshed);
    let event = rig
        .event(&events, |event| event.reason.as_deref() == Some("FailedCreate"))
        .await;
    let message = event.message.expect("a message");
    assert!(
        message.contains("annotation weft.dev/proxy-cpu: \"much\" is no amount"),
        "{message}"
    );
}
