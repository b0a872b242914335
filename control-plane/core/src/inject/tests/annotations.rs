//! Annotations and values: what they do, and what is refused by name.

use super::*;

fn annotated(name: &str, value: &str) -> Value {
    let mut pod = cart();
    pod["metadata"]["annotations"] = json!({ name: value });
    pod
}

#[test]
fn each_reaches_the_sidecar() {
    let pod = |name, value| injected(&annotated(name, value)).pod;
    let has = |pod: &Value, arg: &str| assert!(args(pod).contains(&arg), "{arg}: {:?}", args(pod));
    has(
        &pod(tuning::SKIP_INBOUND_PORTS, "3306, 9000-9010"),
        "--skip-inbound-ports=3306,9000-9010",
    );
    has(
        &pod(tuning::SKIP_OUTBOUND_PORTS, "25"),
        "--skip-outbound-ports=25",
    );
    has(
        &pod(tuning::SKIP_OUTBOUND_CIDRS, "10.1.2.3/8,fd00::1/16,1.1.1.1"),
        "--skip-outbound-cidrs=10.0.0.0/8,fd00::/16,1.1.1.1/32",
    );
    let env = |name, value, variable: &str| env(&pod(name, value), variable).map(str::to_owned);
    assert_eq!(
        env(tuning::OPAQUE_PORTS, "5432", "WEFT_OPAQUE_PORTS").as_deref(),
        Some("5432")
    );
    let level = env(tuning::LOG_LEVEL, "warn,weft_proxy::tcp=debug", "WEFT_LOG_LEVEL");
    assert_eq!(level.as_deref(), Some("warn,weft_proxy::tcp=debug"));
    assert_eq!(
        env(tuning::DRAIN_TIME, "1m30s", "WEFT_DRAIN_TIME").as_deref(),
        Some("1m30s")
    );
    let resources = |name, value| pod(name, value)["spec"]["initContainers"][1]["resources"].clone();
    assert_eq!(
        resources(tuning::PROXY_CPU, "2"),
        json!({ "requests": { "cpu": "2", "memory": "32Mi" }, "limits": { "memory": "256Mi" } })
    );
    assert_eq!(
        resources(tuning::PROXY_MEMORY, "0.5Gi"),
        json!({ "requests": { "cpu": "10m", "memory": "0.5Gi" }, "limits": { "memory": "0.5Gi" } })
    );
}

#[test]
fn bad_values_are_refused_by_name() {
    let megabyte = "8".repeat(1 << 20);
    let many = vec!["80"; 65].join(",");
    let hostile = [
        "$(WEFT_TOKEN)",
        "80; rm -rf /",
        "80\n81",
        "`id`",
        "80 --remove",
        "\u{1b}[2J",
        "x",
        megabyte.as_str(),
    ];
    let names = [
        tuning::SKIP_INBOUND_PORTS,
        tuning::SKIP_OUTBOUND_PORTS,
        tuning::SKIP_OUTBOUND_CIDRS,
        tuning::OPAQUE_PORTS,
        tuning::LOG_LEVEL,
        tuning::PROXY_CPU,
        tuning::PROXY_MEMORY,
        tuning::DRAIN_TIME,
        tuning::INJECT,
    ];
    let each = names
        .iter()
        .flat_map(|name| hostile.iter().map(move |value| (*name, *value)));
    let special = [
        (tuning::SKIP_INBOUND_PORTS, "0"),
        (tuning::SKIP_INBOUND_PORTS, "+80"),
        (tuning::SKIP_INBOUND_PORTS, "80,"),
        (tuning::SKIP_INBOUND_PORTS, "90-80"),
        (tuning::SKIP_INBOUND_PORTS, "1-2-3"),
        (tuning::SKIP_OUTBOUND_PORTS, many.as_str()),
        (tuning::SKIP_OUTBOUND_CIDRS, "10.0.0.0/33"),
        (tuning::LOG_LEVEL, ""),
        (tuning::LOG_LEVEL, "info,"),
        (tuning::PROXY_CPU, "65"),
        (tuning::PROXY_CPU, "0"),
        (tuning::PROXY_CPU, "-1"),
        (tuning::PROXY_CPU, "1.0001"),
        (tuning::PROXY_MEMORY, "1Mi"),
        (tuning::PROXY_MEMORY, "1Ti"),
        (tuning::DRAIN_TIME, "2h"),
        (tuning::DRAIN_TIME, "-1s"),
        (tuning::INJECT, "true"),
    ];
    for (name, value) in each.chain(special) {
        let refusal = inject(&annotated(name, value)).unwrap_err().to_string();
        assert!(refusal.contains(name), "{name}: {refusal}");
        assert!(refusal.len() < 300, "{refusal}");
        assert!(refusal.chars().all(|c| !c.is_control()), "{refusal:?}");
    }
}

#[test]
fn misspelt_ones_are_told() {
    let warnings = injected(&annotated("weft.dev/skip-inbound-port", "80")).warnings;
    assert!(
        warnings[0].contains("weft.dev/skip-inbound-port means nothing"),
        "{warnings:?}"
    );
    assert_eq!(
        injected(&annotated("weft.development/a", "80")).warnings,
        Vec::<String>::new()
    );
}

#[test]
fn a_drain_longer_than_the_grace_period_is_told() {
    let warnings = injected(&annotated(tuning::DRAIN_TIME, "31s")).warnings;
    assert!(
        warnings[0].contains("terminationGracePeriodSeconds, 30 s"),
        "{warnings:?}"
    );
    assert_eq!(
        injected(&annotated(tuning::DRAIN_TIME, "30s")).warnings,
        Vec::<String>::new()
    );
}

#[test]
fn a_mesh_wide_list_is_added_to() {
    let injector = Injector::new(Values {
        skip_inbound_ports: vec!["22".into(), "9000-9001".into()],
        ..values()
    });
    let pod = injector
        .unwrap()
        .inject(&annotated(tuning::SKIP_INBOUND_PORTS, "80"), &shop());
    let Ok(Outcome::Injected(Injected { pod, .. })) = pod else {
        panic!("{pod:?}");
    };
    assert!(args(&pod).contains(&"--skip-inbound-ports=22,9000-9001,80"));
}

#[test]
fn bad_values_are_told_all_at_once() {
    let problems = Injector::new(Values {
        image: "a b".into(),
        control_plane: "here".into(),
        control_plane_namespace: String::new(),
        trust_domain: "a$b".into(),
        cluster_domain: "\n".into(),
        mesh_cidrs: vec!["10.0.0.0/40".into()],
        log_level: "loud".into(),
        drain_time: weft_api::duration::Duration::from_secs(7200),
        uid: 0,
        skip_inbound_ports: vec!["x".into()],
        skip_outbound_ports: vec!["-1".into()],
        skip_outbound_cidrs: vec!["y".into()],
        resources: values::Resources {
            requests: values::Amounts {
                cpu: Some("much".into()),
                memory: Some("1".into()),
            },
            limits: values::Amounts {
                cpu: Some(String::new()),
                memory: Some(String::new()),
            },
        },
        ..values()
    });
    let fields: Vec<_> = problems
        .unwrap_err()
        .iter()
        .map(|problem| problem.field)
        .collect();
    assert_eq!(fields.len(), 16, "{fields:?}");
}

#[test]
fn values_are_read_strictly_and_completely_from_an_image() {
    let read: Values = serde_json::from_value(json!({ "image": "registry.test/weft:1" })).unwrap();
    assert_eq!(read, values());
    serde_json::from_value::<Values>(json!({ "image": "x", "logLevl": "info" })).unwrap_err();
    // Who writes YAML leaves the quotes of a number away.
    let written = json!({ "image": "registry.test/weft:1", "skipInboundPorts": [3306, "9000-9010"],
        "resources": { "requests": { "cpu": 0.5 }, "limits": { "cpu": 2 } } });
    let read: Values = serde_json::from_value(written).unwrap();
    assert_eq!(read.skip_inbound_ports, ["3306", "9000-9010"]);
    let cpu = [&read.resources.requests, &read.resources.limits].map(|amounts| amounts.cpu.as_deref());
    assert_eq!(cpu, [Some("0.5"), Some("2")]);
    Injector::new(read).unwrap();
    serde_json::from_value::<Values>(json!({})).unwrap_err();
}
