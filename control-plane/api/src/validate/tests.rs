//! Every rule as a line of a table: what somebody might write, and exactly what is said about it. Lines and columns
//! count from the manifest's beginning, frame included.

mod documents;
mod grpc;
mod http;
mod kubernetes;
mod policies;
mod random;

use std::collections::BTreeSet;

use kube_core::CustomResourceExt;
use serde_json::Value;

use super::*;
use crate::object::Kind;

/// What is written, and what is said: `line:column: severity: object: field: reason; remedy`.
type Case = (&'static str, &'static [&'static str]);

const ROUTE: &str = "metadata: {name: r, namespace: shop}\nspec:\n";
const PARENT: &str = "  parentRefs: [{group: \"\", kind: Service, name: user}]\n";
const TARGET: &str = "targetRefs: [{group: \"\", kind: Service, name: user}]\n";

fn indented(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    text.lines()
        .flat_map(|line| {
            [
                &pad, line, "
",
            ]
        })
        .collect()
}

fn route(kind: &str, spec: &str) -> String {
    format!("apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n{ROUTE}{spec}")
}

fn rule(kind: &str, rule: &str) -> String {
    let rule = indented(rule, 4);
    route(kind, &format!("{PARENT}  rules:\n  - {}", rule.trim_start()))
}

fn policy(kind: &str, name: &str, spec: &str) -> String {
    let spec = indented(spec, 2);
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}"
    )
}

fn service(spec: &str) -> String {
    let spec = indented(spec, 2);
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: user, namespace: shop}}\nspec:\n{spec}")
}

fn slice(rest: &str) -> String {
    let metadata = "metadata: {name: user-1, labels: {kubernetes.io/service-name: user}}";
    format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n{metadata}\n{rest}\n")
}

fn check(cases: &[Case], frame: impl Fn(&str) -> String) {
    for (written, expected) in cases {
        let text = frame(written);
        let report = check_str("f", &text);
        let said: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
        let said: Vec<_> = said.iter().map(|line| line.trim_start_matches("f:")).collect();
        assert_eq!(said, *expected, "about\n{text}");
    }
}

#[test]
fn http_routes() {
    check(http::HTTP_RULES, |text| rule("HTTPRoute", text));
    check(http::HTTP_SPEC, |text| route("HTTPRoute", &indented(text, 2)));
}

#[test]
fn grpc_routes() {
    check(grpc::GRPC_RULES, |text| rule("GRPCRoute", text));
}

#[test]
fn our_policies() {
    check(policies::TRAFFIC_POLICIES, |text| {
        policy("TrafficPolicy", "p", &format!("{TARGET}{text}"))
    });
    check(policies::TRAFFIC_POLICY_TARGETS, |text| {
        policy("TrafficPolicy", "p", text)
    });
    check(policies::MESH_TLS_POLICIES, |text| {
        policy("MeshTLSPolicy", "m", text)
    });
}

#[test]
fn kinds_of_kubernetes() {
    check(kubernetes::SERVICES, service);
    check(kubernetes::ENDPOINT_SLICES, slice);
    check(kubernetes::METADATA, |text| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n{}",
            indented(text, 2)
        )
    });
}

#[test]
fn documents() {
    check(documents::DOCUMENTS, str::to_owned);
}

#[test]
fn lists_have_bounds() {
    let repeat = |item: &str, count: usize| vec![item; count].join(", ");
    let said = |text: String| {
        check_str("f", &text)
            .findings
            .iter()
            .map(|found| found.reason.clone())
            .collect::<Vec<_>>()
    };
    let backends = rule(
        "HTTPRoute",
        &format!("backendRefs: [{}]", repeat("{name: a, port: 80}", 17)),
    );
    assert_eq!(said(backends), ["has 17 items; at most 16 are allowed"]);
    let matches = rule(
        "HTTPRoute",
        &format!("matches: [{}]", repeat("{method: GET}", 65)),
    );
    assert_eq!(said(matches), ["has 65 items; at most 64 are allowed"]);
    let rules = route("HTTPRoute", &format!("{PARENT}  rules: [{}]", repeat("{}", 17)));
    assert_eq!(said(rules), ["has 17 items; at most 16 are allowed"]);
    let many = format!("{{matches: [{}]}}", repeat("{method: GET}", 64));
    let all = route("HTTPRoute", &format!("{PARENT}  rules: [{}]", repeat(&many, 3)));
    assert_eq!(
        said(all),
        ["all rules together have 192 matches; at most 128 are allowed"]
    );
    let long = rule(
        "HTTPRoute",
        &format!("matches: [{{path: {{value: /{}}}}}]", "a".repeat(1024)),
    );
    assert_eq!(said(long), ["has 1025 characters; at most 1024 are allowed"]);
    let targets: Vec<_> = (0..17)
        .map(|index| format!("{{group: '', kind: Service, name: s{index}}}"))
        .collect();
    let targets = policy(
        "TrafficPolicy",
        "p",
        &format!("targetRefs: [{}]", targets.join(", ")),
    );
    assert_eq!(said(targets), ["has 17 items; at most 16 are allowed"]);
    let endpoints = slice(&format!(
        "addressType: IPv4\nendpoints: [{}]",
        repeat("{addresses: [10.0.0.1]}", 1001)
    ));
    assert_eq!(said(endpoints), ["has 1001 items; at most 1000 are allowed"]);
}

#[test]
fn an_invalid_object_is_refused_by_name_and_disturbs_no_other() {
    let text = [
        service("ports: [{port: 80}]"),
        service("ports: []").replace("user", "other"),
    ]
    .join("---\n");
    let report = check_str("f", &text);
    assert!(report.complete);
    assert_eq!(report.objects.len(), 1);
    assert_eq!(report.refused.len(), 1);
    assert_eq!(
        report.refused[0].value,
        ObjectRef::new(Kind::Service, "shop", "other")
    );
    assert_eq!(report.refused[0].position.unwrap().line, 7);
}

#[test]
fn a_file_whose_objects_cant_all_be_told_is_incomplete() {
    for text in [
        "a: [",
        "apiVersion: weft.dev/v1alpha1\nkind: Trafic\n",
        "apiVersion: v1\nkind: Service\nspec: {}\n",
    ] {
        assert!(!check_str("f", text).complete, "{text}");
    }
}

#[test]
fn an_object_in_two_places_is_said_with_both() {
    let text = service("ports: [{port: 80}]");
    let findings = check_all([("a.yaml", text.as_str()), ("b.yaml", text.as_str())]);
    let said: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "b.yaml:1:1: error: Service shop/user: metadata.name: the object stands in a.yaml:1 too; that one counts, \
          this one is refused; remove or rename one of the two"
        ]
    );
}

/// Keywords that [`schema`] reads, and those that it can leave to somebody else.
const KEYWORDS: [&str; 24] = [
    "$ref",
    "additionalProperties",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    // CEL's part, no part in validation, and nulls are dropped before.
    "x-kubernetes-validations",
    "default",
    "nullable",
    // Of conditions, which controllers write, not people.
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
];

fn keywords(json: &Value, found: &mut BTreeSet<String>) {
    let Value::Object(members) = json else { return };
    for (keyword, value) in members {
        found.insert(keyword.clone());
        match keyword.as_str() {
            "properties" => value
                .as_object()
                .into_iter()
                .flatten()
                .for_each(|(_, schema)| keywords(schema, found)),
            "items" | "additionalProperties" => keywords(value, found),
            _ => {}
        }
    }
}

#[test]
fn every_keyword_of_every_schema_is_checked() {
    let mut found = BTreeSet::new();
    for crd in [
        crate::crd::all(),
        vec![crate::gateway::HttpRoute::crd(), crate::gateway::GrpcRoute::crd()],
    ]
    .concat()
    {
        keywords(&kinds::crd_schema(&crd), &mut found);
    }
    kinds::kubernetes()
        .values()
        .for_each(|schema| keywords(schema, &mut found));
    found.retain(|keyword| !KEYWORDS.contains(&keyword.as_str()));
    assert!(found.is_empty(), "nobody checks {found:?}");
}

#[test]
fn our_cel_rules_compile_and_our_crds_are_bounded() {
    fn walk(json: &Value, at: &str) {
        let kind = json.get("type").and_then(Value::as_str).unwrap_or_default();
        let bounded = |keyword: &str| json.get(keyword).is_some();
        assert!(kind != "array" || bounded("maxItems"), "{at} has no maxItems");
        let format = json.get("format").and_then(Value::as_str).unwrap_or_default();
        assert!(
            kind != "string" || bounded("maxLength") || bounded("enum") || format == "date-time",
            "{at} has no maxLength"
        );
        assert!(
            kind != "integer" || bounded("maximum") || format == "int64",
            "{at} has no maximum"
        );
        assert!(!bounded("nullable"), "{at} keeps null");
        json.get("items")
            .iter()
            .for_each(|items| walk(items, &format!("{at}[]")));
        for (name, schema) in json
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            assert!(
                schema.get("description").is_some(),
                "{at}.{name} is not described"
            );
            walk(schema, &format!("{at}.{name}"));
        }
    }
    for crd in crate::crd::all() {
        let schema = kinds::crd_schema(&crd);
        walk(&schema["properties"]["spec"], "spec");
        walk(&schema["properties"]["status"], "status");
        assert!(!kube_core::cel::compile_schema(&schema).has_errors());
        assert!(!serde_json::to_string(&crd).unwrap().contains("\"uint"));
        assert!(
            crd.spec.versions[0].subresources.is_some(),
            "status is a subresource"
        );
    }
}
