//! Injection as its callers see it.

mod annotations;
mod random;
mod refusals;
mod workloads;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;

fn values() -> Values {
    Values::of_image("registry.test/weft:1")
}

fn injector() -> Injector {
    Injector::new(values()).unwrap()
}

fn shop() -> Namespace {
    Namespace {
        name: "shop".into(),
        labels: BTreeMap::new(),
    }
}

fn inject(pod: &Value) -> Result<Outcome, Refusal> {
    injector().inject(pod, &shop())
}

fn injected(pod: &Value) -> Injected {
    match inject(pod) {
        Ok(Outcome::Injected(injected)) => injected,
        other => panic!("{other:?}"),
    }
}

fn unmeshed(pod: &Value) -> Unmeshed {
    match inject(pod) {
        Ok(Outcome::Unmeshed(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn cart() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "generateName": "cart-", "labels": { "app": "cart" } },
        "spec": {
            "serviceAccountName": "cart",
            "containers": [{ "name": "cart", "image": "cart:1", "ports": [{ "name": "http", "containerPort": 8080 }] }],
        },
    })
}

fn env<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let variables = pod.pointer("/spec/initContainers/1/env")?.as_array()?;
    let variable = variables.iter().find(|variable| variable["name"] == name)?;
    variable["value"].as_str()
}

fn args(pod: &Value) -> Vec<&str> {
    let args = pod["spec"]["initContainers"][0]["args"].as_array().unwrap();
    args.iter().map(|arg| arg.as_str().unwrap()).collect()
}

#[test]
fn the_sidecar_comes_first() {
    let mut pod = cart();
    pod["spec"]["initContainers"] = json!([{ "name": "migrate", "image": "cart:1" }]);
    let result = injected(&pod);
    assert_eq!(result.warnings, Vec::<String>::new());
    let typed: Pod = serde_json::from_value(result.pod.clone()).unwrap();
    let spec = typed.spec.unwrap();
    let init = spec.init_containers.unwrap();
    let names: Vec<&str> = init.iter().map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["weft-init", "weft-proxy", "migrate"]);
    assert_eq!(init[0].restart_policy, None);
    assert_eq!(init[1].restart_policy.as_deref(), Some("Always"));
    assert_eq!(typed.metadata.annotations.unwrap()["weft.dev/injected"], VERSION);
    assert_eq!(env(&result.pod, "WEFT_EGRESS"), Some("allow"));
    assert_eq!(args(&result.pod)[..2], ["init", "--proxy-uid=2102"]);
    let volumes: Vec<_> = spec
        .volumes
        .unwrap()
        .into_iter()
        .map(|volume| volume.name)
        .collect();
    assert_eq!(volumes, sidecar::VOLUMES);
}

#[test]
fn only_capture_has_a_right_and_nothing_has_more() {
    let pod = injected(&cart()).pod;
    let security = |container: usize| pod["spec"]["initContainers"][container]["securityContext"].clone();
    let restricted = json!({
        "runAsUser": 2102, "runAsGroup": 2102, "runAsNonRoot": true, "privileged": false,
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
    });
    assert_eq!(security(1), restricted);
    let mut capturing = restricted;
    capturing["runAsUser"] = json!(0);
    capturing["runAsGroup"] = json!(0);
    capturing["runAsNonRoot"] = json!(false);
    capturing["capabilities"]["add"] = json!(["NET_ADMIN"]);
    assert_eq!(security(0), capturing);
}

#[test]
fn neither_container_gets_the_api_token() {
    let pod = injected(&cart()).pod;
    for container in pod["spec"]["initContainers"].as_array().unwrap() {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let over = mounts
            .iter()
            .find(|mount| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount");
        assert_eq!(over.unwrap()["name"], "weft-trust");
    }
}

#[test]
fn probes_go_through_the_status_port() {
    let mut pod = cart();
    let container = &mut pod["spec"]["containers"][0];
    container["livenessProbe"] = json!({
        "httpGet": { "path": "/live?$(X)", "port": "http", "scheme": "HTTPS", "httpHeaders": [{ "name": "a", "value": "b" }] },
        "timeoutSeconds": 3, "periodSeconds": 7,
    });
    container["readinessProbe"] = json!({ "tcpSocket": { "port": "9000", "host": null } });
    container["startupProbe"] = json!({ "grpc": { "port": 9001, "service": "cart" }, "httpGet": null });
    container["lifecycle"] = json!({
        "preStop": { "httpGet": { "port": 8080, "path": "/bye" } },
        "postStart": { "exec": { "command": ["true"] } },
    });
    pod["spec"]["initContainers"] = json!([
        { "name": "cache", "restartPolicy": "Always", "startupProbe": { "tcpSocket": { "port": 1 } } },
    ]);
    let result = injected(&pod);
    let container = &result.pod["spec"]["containers"][0];
    assert_eq!(
        container["livenessProbe"],
        json!({ "httpGet": { "path": "/probe/cart/liveness", "port": 15020 }, "timeoutSeconds": 3, "periodSeconds": 7 })
    );
    assert_eq!(
        container["startupProbe"],
        json!({ "httpGet": { "path": "/probe/cart/startup", "port": 15020 } })
    );
    assert_eq!(
        container["lifecycle"]["postStart"],
        pod["spec"]["containers"][0]["lifecycle"]["postStart"]
    );
    let cache = &result.pod["spec"]["initContainers"][2]["startupProbe"];
    assert_eq!(cache["httpGet"]["path"], "/probe/cache/startup");
    let text = env(&result.pod, "WEFT_PROBES").unwrap();
    assert!(!text.contains('$'), "{text}");
    let originals: Value = serde_json::from_str(text).unwrap();
    assert_eq!(
        originals,
        json!({
            "cart/liveness": {
                "httpGet": {
                    "path": "/live?$(X)", "port": 8080, "scheme": "HTTPS",
                    "httpHeaders": [{ "name": "a", "value": "b" }],
                },
                "timeoutSeconds": 3,
            },
            "cart/readiness": { "tcpSocket": { "port": 9000 } },
            "cart/startup": { "grpc": { "port": 9001, "service": "cart" } },
            "cart/preStop": { "httpGet": { "port": 8080, "path": "/bye" }, "timeoutSeconds": 300 },
            "cache/startup": { "tcpSocket": { "port": 1 } },
        })
    );
    assert_eq!(uninject(&result.pod).unwrap(), pod);
}

#[test]
fn what_the_api_server_puts_into_probes_makes_no_other_sidecar() {
    let probed = |probe: Value, hook: Value| {
        let mut pod = cart();
        pod["spec"]["containers"][0]["readinessProbe"] = probe;
        pod["spec"]["containers"][0]["lifecycle"] = json!({ "preStop": hook });
        pod
    };
    for (written, defaulted) in [
        (
            json!({ "httpGet": { "port": 80 } }),
            json!({ "httpGet": { "port": 80, "path": "/", "scheme": "HTTP" }, "timeoutSeconds": 1 }),
        ),
        (
            json!({ "grpc": { "port": 80 } }),
            json!({ "grpc": { "port": 80, "service": "" }, "timeoutSeconds": 1 }),
        ),
    ] {
        let hook = |action: &Value| json!({ "httpGet": action.get("httpGet") });
        let [written, defaulted] = [written, defaulted].map(|probe| probed(probe.clone(), hook(&probe)));
        let [by_hand, by_webhook] = [&written, &defaulted].map(|pod| injected(pod).pod);
        assert_eq!(env(&by_hand, "WEFT_PROBES"), env(&by_webhook, "WEFT_PROBES"));
        assert_eq!(uninject(&by_hand).unwrap(), written);
        assert_eq!(uninject(&by_webhook).unwrap(), defaulted);
    }
}

#[test]
fn probes_that_never_reach_the_pods_port_stay() {
    let mut pod = cart();
    let container = &mut pod["spec"]["containers"][0];
    container["livenessProbe"] = json!({ "httpGet": { "host": "10.0.0.1", "port": 80 } });
    container["readinessProbe"] = json!({ "exec": { "command": ["true"] } });
    container["startupProbe"] = json!({ "httpGet": { "port": "nothing" } });
    let result = injected(&pod);
    assert_eq!(result.pod["spec"]["containers"], pod["spec"]["containers"]);
    assert_eq!(env(&result.pod, "WEFT_PROBES"), Some("{}"));
    assert!(
        result.warnings[0].contains("startup probe names the port \"nothing\""),
        "{result:?}"
    );
}

#[test]
fn a_pod_may_stay_out() {
    let with = |pointer: &str, value: Value| {
        let mut pod = cart();
        pod[pointer.split('/').next().unwrap()][pointer.split('/').nth(1).unwrap()] = value;
        pod
    };
    let disabled = json!({ "weft.dev/inject": "disabled" });
    assert_eq!(
        unmeshed(&with("metadata/annotations", disabled.clone())),
        Unmeshed::OptedOut
    );
    assert_eq!(unmeshed(&with("metadata/labels", disabled)), Unmeshed::OptedOut);
    let mirror = json!({ "kubernetes.io/config.mirror": "x" });
    assert_eq!(unmeshed(&with("metadata/annotations", mirror)), Unmeshed::Mirror);
    let host = unmeshed(&with("spec/hostNetwork", json!(true)));
    assert_eq!((&host, host.is_surprising()), (&Unmeshed::HostNetwork, true));
    assert_eq!(
        unmeshed(&with("spec/os", json!({ "name": "windows" }))),
        Unmeshed::Windows
    );
    for name in ["kube-system", "weft-system"] {
        let namespace = Namespace {
            name: name.into(),
            ..shop()
        };
        let outcome = injector().inject(&cart(), &namespace).unwrap();
        assert_eq!(outcome, Outcome::Unmeshed(Unmeshed::Namespace(name.into())));
    }
    let enabled = json!({ "weft.dev/inject": "enabled" });
    injected(&with("metadata/annotations", enabled));
}

#[test]
fn what_others_added_since_is_kept_and_meshed() {
    let mut pod = injected(&cart()).pod;
    let other = json!({ "name": "logs", "livenessProbe": { "httpGet": { "port": 1 } } });
    pod["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(other.clone());
    pod["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "logs" }));
    let again = injected(&pod).pod;
    assert_eq!(
        again["spec"]["containers"][1]["livenessProbe"]["httpGet"]["path"],
        "/probe/logs/liveness"
    );
    let mut expected = cart();
    expected["spec"]["containers"].as_array_mut().unwrap().push(other);
    expected["spec"]["volumes"] = json!([{ "name": "logs" }]);
    assert_eq!(uninject(&again).unwrap(), expected);
}

#[test]
fn a_forged_sidecar_is_replaced() {
    let mut pod = cart();
    pod["metadata"]["annotations"] = json!({ "weft.dev/injected": "0" });
    pod["spec"]["initContainers"] =
        json!([{ "name": "weft-proxy", "image": "evil:1", "restartPolicy": "Always" }]);
    let result = injected(&pod).pod;
    assert!(!result.to_string().contains("evil"), "{result}");
}
