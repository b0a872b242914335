//! Pods beside which no sidecar can stand.

use super::*;

fn refused(change: impl FnOnce(&mut Value)) -> String {
    let mut pod = cart();
    change(&mut pod);
    inject(&pod).unwrap_err().to_string()
}

#[test]
fn the_sidecars_user() {
    let own = refused(|pod| pod["spec"]["containers"][0]["securityContext"] = json!({ "runAsUser": 2102 }));
    assert!(own.contains("container cart runs as user 2102"), "{own}");
    let of_pod = refused(|pod| pod["spec"]["securityContext"] = json!({ "runAsUser": 2102 }));
    assert_eq!(own, of_pod);
    let mut pod = cart();
    pod["spec"]["securityContext"] = json!({ "runAsUser": 2102 });
    pod["spec"]["containers"][0]["securityContext"] = json!({ "runAsUser": 1000 });
    injected(&pod);
    refused(|pod| {
        pod["spec"]["initContainers"] = json!([{ "name": "a", "securityContext": { "runAsUser": 2102 } }]);
    });
}

#[test]
fn names_volumes_and_ports_of_the_sidecar() {
    for name in ["weft-init", "weft-proxy"] {
        let refusal = refused(|pod| pod["spec"]["containers"][0]["name"] = json!(name));
        assert!(refusal.contains(name), "{refusal}");
    }
    for name in sidecar::VOLUMES {
        let refusal = refused(|pod| pod["spec"]["volumes"] = json!([{ "name": name, "emptyDir": {} }]));
        assert!(refusal.contains(name), "{refusal}");
        let mounts = json!([{ "name": name, "mountPath": "/steal" }]);
        let refusal = refused(|pod| pod["spec"]["containers"][0]["volumeMounts"] = mounts);
        assert!(
            refusal.contains("mounts the volume") && refusal.contains(name),
            "{refusal}"
        );
    }
    for port in sidecar::PORTS {
        let refusal =
            refused(|pod| pod["spec"]["containers"][0]["ports"] = json!([{ "containerPort": port }]));
        assert!(refusal.contains(&port.to_string()), "{refusal}");
    }
    let mut pod = cart();
    pod["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 15001, "protocol": "UDP" }]);
    injected(&pod);
}

#[test]
fn pod_security() {
    for level in ["baseline", "restricted", "anything"] {
        let namespace = Namespace {
            labels: [(POD_SECURITY.to_owned(), level.to_owned())].into(),
            ..shop()
        };
        let refusal = injector().inject(&cart(), &namespace).unwrap_err().to_string();
        assert!(
            refusal.contains("namespace shop enforces") && refusal.contains(level),
            "{refusal}"
        );
        let mut out = cart();
        out["metadata"]["annotations"] = json!({ "weft.dev/inject": "disabled" });
        assert_eq!(
            injector().inject(&out, &namespace),
            Ok(Outcome::Unmeshed(Unmeshed::OptedOut))
        );
    }
    let namespace = Namespace {
        labels: [(POD_SECURITY.to_owned(), "privileged".to_owned())].into(),
        ..shop()
    };
    injector().inject(&cart(), &namespace).unwrap();
}

#[test]
fn what_is_no_pod() {
    for pod in [
        json!(null),
        json!([]),
        json!({}),
        json!({ "spec": 1 }),
        json!({ "spec": {} }),
        json!({ "spec": { "containers": [] } }),
        json!({ "spec": { "containers": [1] } }),
        json!({ "spec": { "containers": [{}] } }),
        json!({ "spec": { "containers": [{ "name": "a" }, { "name": "a" }] } }),
        json!({ "spec": { "containers": [{ "name": "a" }], "volumes": {} } }),
        json!({ "metadata": 1, "spec": { "containers": [{ "name": "a" }] } }),
        json!({ "metadata": { "annotations": [] }, "spec": { "containers": [{ "name": "a" }] } }),
        json!({ "metadata": { "annotations": { "a": 1 } }, "spec": { "containers": [{ "name": "a" }] } }),
    ] {
        let refusal = inject(&pod).unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed(_)), "{pod}: {refusal:?}");
    }
}

#[test]
fn a_record_that_is_none() {
    for annotations in [
        json!({ "weft.dev/replaced": "{}" }),
        json!({ "weft.dev/replaced": "nonsense", "weft.dev/injected": "1" }),
        json!({ "weft.dev/replaced": "{\"other\":1}", "weft.dev/injected": "1" }),
    ] {
        let refusal = refused(|pod| pod["metadata"]["annotations"] = annotations);
        assert!(refusal.contains("weft.dev/replaced"), "{refusal}");
    }
}

#[test]
fn probes_that_do_not_fit_into_a_variable() {
    let refusal = refused(|pod| {
        let path = "x".repeat(probes::BYTES_MAX);
        pod["spec"]["containers"][0]["livenessProbe"] = json!({ "httpGet": { "port": 1, "path": path } });
    });
    assert!(refusal.contains("at most 65536"), "{refusal}");
}
