//! Objects that pods come from.

use super::workload::{Verdict, inject_object, uninject_object};
use super::*;

fn workload(kind: &str, pod: &Value) -> Value {
    let template = json!({ "metadata": pod["metadata"], "spec": pod["spec"] });
    let mut object =
        json!({ "kind": kind, "metadata": { "name": "cart", "namespace": "shop" }, "status": {} });
    match kind {
        "Pod" => object["spec"] = pod["spec"].clone(),
        "CronJob" => object["spec"] = json!({ "jobTemplate": { "spec": { "template": template } } }),
        _ => object["spec"] = json!({ "template": template }),
    }
    object
}

#[test]
fn every_kind_and_back() {
    let kinds = [
        "Pod",
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "ReplicaSet",
        "ReplicationController",
        "Job",
        "CronJob",
    ];
    let items: Vec<Value> = kinds.iter().map(|kind| workload(kind, &cart())).collect();
    for (kind, object) in kinds.iter().zip(&items) {
        let (result, reports) = inject_object(&injector(), object, "default");
        assert_eq!(reports[0].verdict, Verdict::Injected(Vec::new()), "{kind}");
        assert_eq!(reports[0].object, format!("{}/cart", kind.to_lowercase()));
        assert_eq!(result.to_string().matches("\"weft-proxy\"").count(), 1, "{kind}");
        assert_eq!(uninject_object(&result).unwrap(), *object);
    }
    let list = json!({ "kind": "List", "items": items });
    let (result, reports) = inject_object(&injector(), &list, "default");
    assert_eq!(reports.len(), kinds.len());
    assert_eq!(uninject_object(&result).unwrap(), list);
}

#[test]
fn the_template_is_injected_as_its_pod_would_be() {
    let (result, _) = inject_object(&injector(), &workload("Deployment", &cart()), "default");
    let pod = injected(&cart()).pod;
    assert_eq!(result["spec"]["template"]["spec"], pod["spec"]);
    assert_eq!(result["spec"]["template"]["metadata"], pod["metadata"]);
}

#[test]
fn what_has_no_pods_or_stays_out_is_the_same_afterwards() {
    let verdict = |object: &Value, namespace: &str| {
        let (result, mut reports) = inject_object(&injector(), object, namespace);
        assert_eq!(result, *object);
        reports.remove(0).verdict
    };
    assert_eq!(verdict(&json!({ "kind": "Service" }), "a"), Verdict::NoPods);
    assert_eq!(verdict(&json!({ "kind": "Deployment" }), "a"), Verdict::NoPods);
    assert_eq!(verdict(&json!([]), "a"), Verdict::NoPods);
    let pod = cart();
    assert!(matches!(
        verdict(&pod, "kube-system"),
        Verdict::Unmeshed(Unmeshed::Namespace(_))
    ));
    let mut bad = workload("Job", &cart());
    bad["spec"]["template"]["spec"]["containers"] = json!([]);
    assert!(matches!(verdict(&bad, "a"), Verdict::Refused(_)));
}

#[test]
fn lists_in_lists_end() {
    let mut list = cart();
    for _ in 0..100 {
        list = json!({ "kind": "List", "items": [list] });
    }
    let (result, reports) = inject_object(&injector(), &list, "a");
    assert_eq!((result == list, reports.len()), (true, 1));
}
