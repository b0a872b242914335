//! Random valid objects: written as YAML they are read back as they were, and nothing is said about them.

use proptest::prelude::*;
use proptest::{collection, option, sample};
use serde_json::{Value, json};

use super::super::check_str;
use crate::duration::Duration;
use crate::object::Object;
use crate::yaml;

fn name() -> impl Strategy<Value = String> {
    "[a-z]([-a-z0-9]{0,8}[a-z0-9])?"
}

fn metadata() -> impl Strategy<Value = Value> {
    let labels = collection::btree_map(name(), "([A-Za-z0-9]([-A-Za-z0-9_.]{0,8}[A-Za-z0-9])?)?", 0..3);
    (name(), option::of(name()), labels).prop_map(|(name, namespace, labels)| {
        without_nulls(json!({ "name": name, "namespace": namespace, "labels": labels }))
    })
}

fn duration(min: u64, max: u64) -> impl Strategy<Value = String> {
    (min..=max).prop_map(|millis| Duration::from_millis(millis).to_string())
}

fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

fn object(
    version: &'static str,
    kind: &'static str,
    spec: impl Strategy<Value = Value>,
) -> impl Strategy<Value = Value> {
    (metadata(), spec).prop_map(
        move |(metadata, spec)| json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec }),
    )
}

fn targets() -> impl Strategy<Value = Value> {
    collection::btree_map((name(), option::of(name())), Just(()), 1..4).prop_map(|targets| {
        let target = |(name, section): (String, Option<String>)| {
            without_nulls(json!({ "group": "", "kind": "Service", "name": name, "sectionName": section }))
        };
        targets.into_keys().map(target).collect()
    })
}

fn balancer() -> impl Strategy<Value = Value> {
    let algorithm = sample::select(vec![
        "PeakEwma",
        "RoundRobin",
        "LeastRequest",
        "Random",
        "RingHash",
    ]);
    let header = option::of("x-[a-z]{1,8}");
    (
        algorithm,
        header,
        option::of(duration(0, 3_600_000)),
        any::<bool>(),
    )
        .prop_map(|(algorithm, header, slow, any)| {
            let ring_hash = header
                .filter(|_| algorithm == "RingHash")
                .map(|header| json!({ "header": header }));
            let locality = any.then_some("Any");
            without_nulls(json!({
                "algorithm": algorithm, "ringHash": ring_hash, "slowStart": slow, "locality": locality,
            }))
        })
}

fn breaker() -> impl Strategy<Value = Value> {
    (
        0..1000_u32,
        option::of(duration(1, 3_600_000)),
        option::of(1..10_u32),
    )
        .prop_map(|(failures, open, probes)| {
            without_nulls(
                json!({ "consecutiveFailures": failures, "openFor": open, "halfOpenProbes": probes }),
            )
        })
}

fn retry() -> impl Strategy<Value = Value> {
    let codes = collection::vec(sample::select(vec!["Unavailable", "Aborted", "DataLoss"]), 1..3);
    let backoff =
        (duration(1, 100), duration(100, 60_000)).prop_map(|(base, max)| json!({ "base": base, "max": max }));
    (
        0..=10_u32,
        collection::vec(400..600_u16, 1..4),
        codes,
        option::of(backoff),
    )
        .prop_map(|(attempts, statuses, codes, backoff)| {
            without_nulls(json!({
                "attempts": attempts, "statuses": statuses, "grpcCodes": codes, "backoff": backoff,
                "budget": { "percent": attempts, "floor": attempts },
            }))
        })
}

fn traffic_policy() -> impl Strategy<Value = Value> {
    let spec = (
        targets(),
        option::of(balancer()),
        option::of(breaker()),
        option::of(retry()),
        option::of(1..9_u32),
    );
    let spec = spec.prop_map(|(targets, balancer, breaker, retry, limit)| {
        without_nulls(json!({
            "targetRefs": targets, "balancer": balancer, "retry": retry,
            "breaker": breaker.map(|breaker| json!({ "endpoint": breaker })),
            "limits": limit.map(|limit| json!({ "connections": limit, "requests": limit })),
            "outlier": limit.map(|limit| json!({ "consecutiveFailures": limit, "maxEjectedPercent": limit })),
        }))
    });
    object("weft.dev/v1alpha1", "TrafficPolicy", spec)
}

fn mesh_tls_policy() -> impl Strategy<Value = Value> {
    let mode = sample::select(vec!["Strict", "Permissive"]);
    let spec = (targets(), mode).prop_map(|(targets, mode)| json!({ "targetRefs": targets, "mode": mode }));
    object("weft.dev/v1alpha1", "MeshTLSPolicy", spec)
}

fn route_match() -> impl Strategy<Value = Value> {
    let path = (
        sample::select(vec!["Exact", "PathPrefix"]),
        "/[a-z0-9._~-]{1,8}(/[a-z]{1,4}){0,2}/?",
    );
    let path = path.prop_filter("no dots alone", |(_, path)| {
        !path.split('/').any(|part| matches!(part, "." | ".."))
    });
    let method = option::of(sample::select(vec!["GET", "POST"]));
    (
        path,
        method,
        collection::btree_map("x-[a-z]{1,4}", "[ -~]{1,8}", 0..3),
    )
        .prop_map(|((kind, path), method, headers)| {
            let headers: Vec<_> = headers
                .into_iter()
                .map(|(name, value)| json!({ "name": name, "type": "Exact", "value": value }))
                .collect();
            without_nulls(json!({
                "path": { "type": kind, "value": path }, "method": method,
                "headers": (!headers.is_empty()).then_some(headers),
            }))
        })
}

fn http_rule() -> impl Strategy<Value = Value> {
    let backends =
        collection::vec((name(), 1..=65_535, option::of(0..=1_000_000)), 1..4).prop_map(|backends| {
            let backend =
                |(name, port, weight)| without_nulls(json!({ "name": name, "port": port, "weight": weight }));
            backends.into_iter().map(backend).collect::<Vec<_>>()
        });
    let timeouts = (duration(1, 1000), duration(1000, 99_999))
        .prop_map(|(one, all)| json!({ "backendRequest": one, "request": all }));
    let retry =
        (0..10, 400..600).prop_map(|(attempts, code)| json!({ "attempts": attempts, "codes": [code] }));
    (
        collection::vec(route_match(), 1..4),
        backends,
        option::of(timeouts),
        option::of(retry),
    )
        .prop_map(|(matches, backends, timeouts, retry)| {
            without_nulls(
                json!({ "matches": matches, "backendRefs": backends, "timeouts": timeouts, "retry": retry }),
            )
        })
}

fn http_route() -> impl Strategy<Value = Value> {
    let spec = (name(), collection::vec(http_rule(), 1..4)).prop_map(|(name, rules)| {
        json!({ "parentRefs": [{ "group": "", "kind": "Service", "name": name }], "rules": rules })
    });
    object("gateway.networking.k8s.io/v1", "HTTPRoute", spec)
}

fn service() -> impl Strategy<Value = Value> {
    let spec = collection::btree_map(name(), 1..=65_535, 1..4).prop_map(|ports| {
        let port = |(index, (name, target)): (usize, (String, i32))| json!({ "name": name, "port": index + 1, "targetPort": target });
        json!({ "ports": ports.into_iter().enumerate().map(port).collect::<Vec<_>>() })
    });
    object("v1", "Service", spec)
}

fn written(object: &Object) -> Value {
    let value = match object {
        Object::Namespace(object) => serde_json::to_value(object),
        Object::Service(object) => serde_json::to_value(object),
        Object::Pod(object) => serde_json::to_value(object),
        Object::EndpointSlice(object) => serde_json::to_value(object),
        Object::HttpRoute(object) => serde_json::to_value(object),
        Object::GrpcRoute(object) => serde_json::to_value(object),
        Object::TrafficPolicy(object) => serde_json::to_value(object),
        Object::MeshTlsPolicy(object) => serde_json::to_value(object),
    };
    value.unwrap()
}

proptest! {
    #[test]
    fn valid_objects_survive_a_round_trip(
        value in prop_oneof![traffic_policy(), mesh_tls_policy(), http_route(), service()]
    ) {
        let report = check_str("f", &yaml::to_string(&value).unwrap());
        prop_assert!(report.findings.is_empty(), "{:?}", report.findings);
        let object = &report.objects[0].value;
        prop_assert_eq!(&written(object), &value);
        let again = check_str("f", &yaml::to_string(&written(object)).unwrap());
        prop_assert_eq!(&again.objects[0].value, object);
    }

    #[test]
    fn damaged_objects_are_refused_or_taken_but_never_a_panic(
        value in prop_oneof![traffic_policy(), mesh_tls_policy(), http_route(), service()],
        cut in any::<sample::Index>(), with in sample::select(vec!["", ":", "- ", "{", "x", "\n", "0", "''"]),
    ) {
        let mut text = yaml::to_string(&value).unwrap();
        let at = cut.index(text.len());
        text.replace_range(at..=at, with);
        let report = check_str("f", &text);
        prop_assert!(report.objects.len() + report.refused.len() <= 1);
        let errors = report.findings.iter().any(super::super::Finding::is_error);
        prop_assert!(errors || report.refused.is_empty());
    }
}
