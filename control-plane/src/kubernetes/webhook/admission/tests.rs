//! Calls as API servers write them.

use proptest::prelude::*;
use weft_control_plane_core::inject::{Values, uninject};

use super::*;

fn injector() -> Injector {
    Injector::new(Values::of_image("registry.test/weft:1")).unwrap()
}

fn shop() -> Namespace {
    Namespace {
        name: "shop".into(),
        ..Namespace::default()
    }
}

fn call(object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": { "username": "somebody", "extra": { "new": ["x"] } },
            "object": object,
            "oldObject": null,
            "dryRun": true,
            "options": { "kind": "CreateOptions" },
            "somethingNew": {},
        },
    })
}

fn decided(call: &Value) -> Decided {
    let request = Request::read(call.to_string().as_bytes()).unwrap();
    decide(&injector(), &request, &shop())
}

fn pod() -> Value {
    json!({
        "kind": "Pod",
        "metadata": { "generateName": "cart-", "creationTimestamp": null },
        "spec": {
            "containers": [{ "name": "cart", "livenessProbe": { "tcpSocket": { "port": 1 } }, "new": [null] }],
            "volumes": [{ "name": "kube-api-access-x" }],
        },
    })
}

/// What the API server makes of an answer.
fn patched(before: &Value, answer: &Value) -> Value {
    let operations = STANDARD
        .decode(answer["response"]["patch"].as_str().unwrap())
        .unwrap();
    let operations: json_patch::Patch = serde_json::from_slice(&operations).unwrap();
    let mut after = before.clone();
    json_patch::patch(&mut after, &operations).unwrap();
    after
}

#[test]
fn the_patch_makes_the_pod_that_injection_makes() {
    let answer = decided(&call(&pod())).answer;
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["response"]["uid"], "u-1");
    assert_eq!(answer["response"]["allowed"], true);
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    let Ok(Outcome::Injected(expected)) = injector().inject(&pod(), &shop()) else {
        panic!("not injected");
    };
    let after = patched(&pod(), &answer);
    assert_eq!(after, expected.pod);
    assert_eq!(uninject(&after).unwrap(), pod());
}

#[test]
fn a_pod_that_has_a_sidecar_is_left_alone() {
    let once = patched(&pod(), &decided(&call(&pod())).answer);
    let answer = decided(&call(&once)).answer;
    assert_eq!(answer["response"], json!({ "uid": "u-1", "allowed": true }));
}

#[test]
fn a_refusal_is_one_sentence() {
    let mut bad = pod();
    bad["metadata"]["annotations"] = json!({ "weft.dev/drain-time": "x\n".repeat(1 << 19) });
    let answer = decided(&call(&bad)).answer;
    assert_eq!(answer["response"]["allowed"], false);
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("annotation weft.dev/drain-time: ") && message.len() < 200,
        "{message}"
    );
}

#[test]
fn a_pod_on_its_nodes_network_is_warned_of_at_its_controller() {
    let mut host = pod();
    host["spec"]["hostNetwork"] = json!(true);
    let Decided { answer, surprise } = decided(&call(&host));
    assert_eq!(answer["response"]["allowed"], true);
    assert!(answer["response"]["patch"].is_null());
    let warning = answer["response"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("hostNetwork"), "{warning}");
    assert_eq!(surprise, None, "there is nothing with a name yet");

    let owners = json!([
        { "apiVersion": "x", "kind": "X", "name": "x", "uid": "0" },
        { "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "logs", "uid": "1", "controller": true },
    ]);
    host["metadata"]["ownerReferences"] = owners;
    let regarding = decided(&call(&host)).surprise.unwrap().regarding;
    let (kind, name) = (regarding.1.as_str(), regarding.2.as_str());
    assert_eq!(
        (kind, name, regarding.3.as_deref()),
        ("DaemonSet", "logs", Some("1"))
    );

    host["metadata"] = json!({ "name": "alone" });
    let surprise = decided(&call(&host)).surprise.unwrap();
    assert_eq!(
        (surprise.regarding.1.as_str(), surprise.regarding.2.as_str()),
        ("Pod", "alone")
    );
}

#[test]
fn other_calls_are_allowed_and_change_nothing() {
    for (pointer, value) in [
        ("/request/operation", "UPDATE"),
        ("/request/kind/kind", "PodTemplate"),
        ("/request/kind/group", "other.dev"),
    ] {
        let mut other = call(&pod());
        *other.pointer_mut(pointer).unwrap() = json!(value);
        assert_eq!(
            decided(&other).answer["response"],
            json!({ "uid": "u-1", "allowed": true })
        );
    }
}

#[test]
fn what_is_no_call_is_said_to_be_none() {
    let mut old = call(&pod());
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    for body in ["", "{", "[]", "{}", &old.to_string(), "\u{0}"] {
        Request::read(body.as_bytes()).unwrap_err();
    }
}

proptest! {
    #[test]
    fn any_body_is_answered_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::read(&body);
    }

    #[test]
    fn any_object_is_answered(
        keys in prop::collection::vec(prop::sample::select(vec![
            "metadata", "spec", "containers", "annotations", "ownerReferences", "weft.dev/inject", "name", "volumes",
        ]), 1..5),
        leaf in prop_oneof![Just(json!(null)), Just(json!([{}])), Just(json!("x")), Just(json!(-1))],
    ) {
        let object = keys.iter().rev().fold(leaf, |inner, key| json!({ *key: inner }));
        let answer = decided(&call(&object)).answer;
        prop_assert_eq!(&answer["response"]["uid"], "u-1");
    }
}
