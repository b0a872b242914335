//! What holds of every pod.

use proptest::prelude::*;

use super::*;

/// A probe of any kind, good or not.
fn probe() -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        (0_u32..70_000).prop_map(|port| json!(port)),
        prop::sample::select(vec!["http", "grpc", "9000", "", "$(A)"]).prop_map(|port| json!(port)),
        Just(Value::Null),
    ];
    let host = prop::option::of(prop::sample::select(vec!["", "10.0.0.1"]));
    let action = (port, host, ".{0,8}").prop_map(|(port, host, path)| {
        let mut action = json!({ "port": port, "path": path });
        if let Some(host) = host {
            action["host"] = json!(host);
        }
        action
    });
    let kind = prop::sample::select(vec!["httpGet", "tcpSocket", "grpc", "exec", "unknown"]);
    let other = prop::option::of(prop::sample::select(vec!["httpGet", "tcpSocket"]));
    (kind, action, other, any::<bool>()).prop_map(|(kind, action, other, timed)| {
        let mut probe = json!({ kind: action });
        if let Some(other) = other.filter(|other| *other != kind) {
            probe[other] = Value::Null;
        }
        if timed {
            probe["timeoutSeconds"] = json!(3);
        }
        probe
    })
}

fn container() -> impl Strategy<Value = Value> {
    let place = prop::sample::select(vec![
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ]);
    let probes = prop::collection::vec((place, probe()), 0..3);
    let ports = prop::option::of(prop::collection::vec(0_u32..70_000, 0..3));
    (probes, ports, any::<bool>()).prop_map(|(probes, ports, native)| {
        let mut container =
            json!({ "image": "a:1", "resources": null, "futureField": { "deep": [1, null] } });
        for (place, probe) in probes {
            let lifecycle = place == "lifecycle";
            container[place] = if lifecycle {
                json!({ "preStop": probe })
            } else {
                probe
            };
        }
        if let Some(ports) = ports {
            let ports = ports
                .iter()
                .map(|port| json!({ "name": "http", "containerPort": port }));
            container["ports"] = ports.collect();
        }
        if native {
            container["restartPolicy"] = json!("Always");
        }
        container
    })
}

fn containers(prefix: &'static str, least: usize) -> impl Strategy<Value = Value> {
    prop::collection::vec(container(), least..4).prop_map(move |mut containers| {
        for (number, container) in containers.iter_mut().enumerate() {
            container["name"] = json!(format!("{prefix}{number}"));
        }
        Value::Array(containers)
    })
}

/// A member that isn't there, is null, is empty or has something in it.
fn member(full: impl Strategy<Value = Value> + 'static, empty: Value) -> BoxedStrategy<Option<Value>> {
    prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        Just(Some(empty)),
        full.prop_map(Some)
    ]
    .boxed()
}

fn pod() -> impl Strategy<Value = Value> {
    let annotation = prop::sample::select(vec![
        ("other.dev/a", "x"),
        ("weft.dev/unknown", "\n"),
        (tuning::SKIP_INBOUND_PORTS, "80,90-91"),
        (tuning::PROXY_MEMORY, "64Mi"),
        (tuning::DRAIN_TIME, "bad"),
    ]);
    let annotations = prop::collection::vec(annotation, 1..3).prop_map(|pairs| {
        pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect()
    });
    let metadata = member(annotations, json!({})).prop_map(|annotations| {
        let mut metadata = json!({ "generateName": "a-", "creationTimestamp": null });
        if let Some(annotations) = annotations {
            metadata["annotations"] = annotations;
        }
        metadata
    });
    let metadata = member(metadata, json!({}));
    let volumes = member(Just(json!([{ "name": "data", "emptyDir": {} }])), json!([]));
    let init = member(containers("init", 1), json!([]));
    (metadata, volumes, init, containers("app", 1)).prop_map(|(metadata, volumes, init, containers)| {
        let mut pod = json!({ "kind": "Pod", "spec": { "containers": containers, "new": [{}] } });
        for (place, value) in [("initContainers", init), ("volumes", volumes)] {
            if let Some(value) = value {
                pod["spec"][place] = value;
            }
        }
        if let Some(metadata) = metadata {
            pod["metadata"] = metadata;
        }
        pod
    })
}

proptest! {
    #[test]
    fn twice_is_once_and_back_is_where_it_came_from(pod in pod()) {
        match inject(&pod) {
            Err(Refusal::Annotation(error)) => prop_assert!(error.to_string().contains(tuning::DRAIN_TIME)),
            Err(refusal) => prop_assert!(matches!(refusal, Refusal::Port { .. }), "{}", refusal),
            Ok(Outcome::Unmeshed(reason)) => prop_assert!(false, "{}", reason),
            Ok(Outcome::Injected(result)) => {
                prop_assert_eq!(&injected(&result.pod), &result);
                prop_assert_eq!(uninject(&result.pod).unwrap(), pod);
                let text = result.pod["spec"]["initContainers"][1]["env"].to_string();
                prop_assert!(!text.contains('$'));
            }
        }
    }

    #[test]
    fn nothing_else_is_touched(pod in pod()) {
        let Ok(Outcome::Injected(result)) = inject(&pod) else { return Ok(()) };
        let mut stripped = result.pod["spec"]["containers"].clone();
        let mut before = pod["spec"]["containers"].clone();
        for container in stripped.as_array_mut().into_iter().chain(before.as_array_mut()).flatten() {
            let members = container.as_object_mut().unwrap();
            members.retain(|key, _| !key.ends_with("Probe") && key != "lifecycle");
        }
        prop_assert_eq!(stripped, before);
        prop_assert_eq!(&result.pod["spec"]["new"], &pod["spec"]["new"]);
    }

    #[test]
    fn any_annotation_is_taken_or_refused_by_its_name(
        name in prop::sample::select(vec![
            tuning::SKIP_INBOUND_PORTS, tuning::SKIP_OUTBOUND_CIDRS, tuning::LOG_LEVEL, tuning::PROXY_CPU,
            tuning::PROXY_MEMORY, tuning::DRAIN_TIME, tuning::OPAQUE_PORTS,
        ]),
        value in prop_oneof![".{0,40}", "[0-9,.:/ a-z-]{0,12}"],
    ) {
        let mut pod = cart();
        pod["metadata"]["annotations"] = json!({ name: value });
        if let Err(refusal) = inject(&pod) {
            prop_assert!(refusal.to_string().contains(name), "{}", refusal);
            return Ok(());
        }
        let result = injected(&pod).pod;
        serde_json::from_value::<Pod>(result.clone()).unwrap();
        let sidecar = result["spec"]["initContainers"].to_string();
        prop_assert!(!sidecar.contains(['$', ';', '`', '|', '\u{1b}']), "{}", sidecar);
    }

    #[test]
    fn nothing_panics(value in ".{0,60}", place in 0_usize..6) {
        let mut pod = injected(&cart()).pod;
        let pointers = [
            "/metadata/annotations/weft.dev~1injected", "/spec/initContainers", "/spec/containers/0/name",
            "/metadata", "/spec/volumes/0/name", "/spec/containers/0/ports",
        ];
        *pod.pointer_mut(pointers[place]).unwrap() = json!(value);
        let _ = inject(&pod);
        let _ = uninject(&pod);
    }
}

proptest! {
    #[test]
    fn a_patch_leads_from_one_to_the_other(before in pod(), after in pod()) {
        let operations: json_patch::Patch = serde_json::from_value(json!(patch::patch(&before, &after))).unwrap();
        let mut patched = before;
        json_patch::patch(&mut patched, &operations).unwrap();
        prop_assert_eq!(patched, after);
    }
}
