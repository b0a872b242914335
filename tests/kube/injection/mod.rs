//! Injection by the chart's own webhooks, called by a real API server.

mod abuse;
mod rig;
mod workloads;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use weft_control_plane::kubernetes::webhook::inject::workload::inject_object;
use weft_control_plane::kubernetes::webhook::values;
use weft_tests::kube::until;

use rig::{Rig, is_trusted};

/// What puts a namespace into the mesh.
const ENABLED: &str = "weft.dev/inject=enabled";

fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "generateName": "cart-" },
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "cart",
                "image": "weft.test/shop:1",
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "readinessProbe": { "httpGet": { "path": "/ready", "port": "http" }, "periodSeconds": 3 },
            }],
        },
    })
}

fn annotated(name: &str, value: &str) -> Value {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({ name: value });
    pod
}

fn init_containers(pod: &Value) -> Vec<&str> {
    let containers = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    containers
        .map(|container| container["name"].as_str().expect("a name"))
        .collect()
}

fn is_meshed(pod: &Value) -> bool {
    init_containers(pod).starts_with(&["weft-init", "weft-proxy"])
}

#[tokio::test]
async fn what_weft_inject_prints_is_the_pod_that_the_webhook_makes() {
    let rig = Rig::shared();
    let meshed = rig.namespace(&[ENABLED]).await;
    let outside = rig.namespace(&[]).await;
    let injector = values::load(&rig.values()).expect("the chart's values");
    let (printed, _) = inject_object(&injector, &pod(), &outside);
    let by_hand = rig.create(&outside, &printed, &[]).await.expect("a good pod");
    let by_webhook = rig.create(&meshed, &pod(), &[]).await.expect("a good pod");
    assert!(is_meshed(&by_webhook));
    assert_eq!(by_hand["spec"], by_webhook["spec"]);
    // What was replaced is kept as it was: here as it was written, there with the API server's defaults.
    let marks = |pod: &Value| {
        let mut marks = pod["metadata"]["annotations"].clone();
        marks["weft.dev/replaced"] = json!(marks["weft.dev/replaced"].is_string());
        marks
    };
    assert_eq!(marks(&by_hand), marks(&by_webhook));
    let again = rig.create(&meshed, &printed, &[]).await.expect("a good pod");
    assert_eq!(again["spec"], by_webhook["spec"]);
}

#[tokio::test]
async fn a_namespace_or_a_pod_chooses() {
    let rig = Rig::shared();
    let _calm = rig.calm.read().await;
    let meshed = rig.namespace(&[ENABLED]).await;
    let outside = rig.namespace(&[]).await;
    let labelled = {
        let mut pod = pod();
        pod["metadata"]["labels"] = json!({ "weft.dev/inject": "enabled" });
        pod
    };
    let (enabled, disabled) = (
        annotated("weft.dev/inject", "enabled"),
        annotated("weft.dev/inject", "disabled"),
    );
    for (namespace, pod, expected) in [
        (&meshed, pod(), true),
        (&meshed, disabled.clone(), false),
        (&outside, pod(), false),
        (&outside, enabled.clone(), true),
        (&outside, labelled, true),
        (&outside, disabled, false),
        (&"kube-system".to_owned(), enabled, false),
    ] {
        let made = rig
            .create(namespace, &pod, &["--dry-run=server"])
            .await
            .expect("a good pod");
        assert_eq!(is_meshed(&made), expected, "{namespace}: {pod}");
    }
}

#[tokio::test]
async fn probes_and_tokens_are_as_the_kubelet_will_see_them() {
    let rig = Rig::shared();
    let meshed = rig.namespace(&[ENABLED]).await;
    let mut pod = pod();
    pod["spec"]["automountServiceAccountToken"] = json!(true);
    let made = rig.create(&meshed, &pod, &[]).await.expect("a good pod");
    let probe = &made["spec"]["containers"][0]["readinessProbe"];
    assert_eq!(probe["httpGet"]["path"], "/probe/cart/readiness");
    assert_eq!(
        (&probe["httpGet"]["port"], &probe["periodSeconds"]),
        (&json!(15020), &json!(3))
    );
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mounted = |container: &Value| {
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        let mut over = mounts.filter(|mount| mount["mountPath"] == token);
        over.next()
            .map(|mount| mount["name"].as_str().expect("a name").to_owned())
    };
    assert!(mounted(&made["spec"]["containers"][0]).is_some_and(|name| name.starts_with("kube-api-access-")));
    for container in made["spec"]["initContainers"].as_array().expect("containers") {
        assert_eq!(mounted(container).as_deref(), Some("weft-trust"));
    }
}

#[tokio::test]
async fn a_pod_on_its_nodes_network_is_admitted_with_a_warning_and_an_event() {
    let rig = Rig::shared();
    let meshed = rig.namespace(&[ENABLED]).await;
    let mut host = pod();
    host["metadata"] = json!({ "name": "host" });
    host["spec"]["hostNetwork"] = json!(true);
    host["spec"]["containers"][0]["ports"] = json!([]);
    let events: Api<Event> = Api::namespaced(rig.kubernetes.client().await, &meshed);
    for more in ["--dry-run=server", "--dry-run=none"] {
        let script = format!("kubectl create -n {meshed} {more} -f - 2>&1");
        let said = rig
            .kubernetes
            .tool("bash", &["-c", &script], &host.to_string())
            .await
            .expect("admitted");
        assert!(said.contains("Warning: the pod is not in the mesh"), "{said}");
    }
    let ours = |event: &Event| event.reason.as_deref() == Some("NotMeshed");
    let event = rig.event(&events, ours).await;
    assert_eq!(event.involved_object.name.as_deref(), Some("host"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let count = events
        .list(&kube::api::ListParams::default())
        .await
        .expect("events");
    assert_eq!(
        count.iter().filter(|event| ours(event)).count(),
        1,
        "a dry run tells nobody"
    );
}

#[tokio::test]
async fn only_the_root_is_written_into_the_webhook_configuration() {
    let rig = Rig::shared();
    let _alone = rig.calm.write().await;
    let name = "weft-injector";
    let api: Api<MutatingWebhookConfiguration> = Api::all(rig.kubernetes.client().await);
    let before = until(api.clone(), name, "trusted", is_trusted).await;
    let ours = |configuration: &MutatingWebhookConfiguration| -> Vec<Value> {
        let fields = configuration.managed_fields().iter();
        let of_us = fields.filter(|field| field.manager.as_deref() == Some("weft.dev/control-plane"));
        of_us.map(|field| json!(field.fields_v1)).collect()
    };
    let text = json!(ours(&before)).to_string();
    assert_eq!(text.matches("f:caBundle").count(), 2, "{text}");
    for other in ["f:rules", "f:url", "f:service", "f:failurePolicy", "f:labels"] {
        assert!(!text.contains(other), "{text}");
    }
    // The API server takes anything for a root, and then calls nobody.
    for broken in [
        r#"[{"op":"replace","path":"/webhooks/1/clientConfig/caBundle","value":"bm90IG91cnM="}]"#,
        r#"[{"op":"remove","path":"/webhooks/1/clientConfig/caBundle"}]"#,
    ] {
        let patch = [
            "patch",
            "mutatingwebhookconfiguration",
            name,
            "--type=json",
            "-p",
            broken,
        ];
        rig.kubernetes.kubectl(&patch).await.expect("edited");
        until(api.clone(), name, "trusted again", is_trusted).await;
    }
    let outside = rig.namespace(&[]).await;
    rig.settled(&outside, &annotated("weft.dev/inject", "enabled"), Result::is_ok)
        .await;
}
