use super::*;
use crate::testing::objects;

fn rejected(yaml: &str) -> Rejected {
    ingest(&objects(yaml)[0]).unwrap_err()
}

fn route(rules: &str) -> String {
    format!(
        "{{kind: HTTPRoute, apiVersion: v1, metadata: {{name: r, namespace: shop}}, spec: {{parentRefs: [{{group: '', kind: Service, name: user}}], rules: [{rules}]}}}}"
    )
}

#[test]
fn what_cannot_be_understood_names_its_field() {
    let service = |ports: &str| {
        format!("{{kind: Service, apiVersion: v1, metadata: {{name: s}}, spec: {{ports: [{ports}]}}}}")
    };
    let slice = |endpoint: &str| {
        format!(
            "{{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {{name: s, labels: {{kubernetes.io/service-name: s}}}}, addressType: IPv4, ports: [{{port: 80}}], endpoints: [{endpoint}]}}"
        )
    };
    for (yaml, field) in [
        (
            "{kind: Service, apiVersion: v1, metadata: {}, spec: {ports: []}}".to_owned(),
            "metadata.name",
        ),
        (
            "{kind: Service, apiVersion: v1, metadata: {name: s}}".to_owned(),
            "spec",
        ),
        (service("{port: 0}"), "spec.ports[0].port"),
        (service("{port: 80}, {port: 80, name: x}"), "spec.ports[1].port"),
        (
            service("{port: 80, targetPort: 70000}"),
            "spec.ports[0].targetPort",
        ),
        (slice("{addresses: []}"), "endpoints[0].addresses"),
        (slice("{addresses: [nowhere]}"), "endpoints[0].addresses"),
        (slice("{addresses: [0.0.0.0]}"), "endpoints[0].addresses"),
        (
            route("{backendRefs: [{name: user}]}"),
            "spec.rules[0].backendRefs[0].port",
        ),
        (
            route("{backendRefs: [{name: user, port: 80, weight: -1}]}"),
            "spec.rules[0].backendRefs[0].weight",
        ),
        (
            route("{matches: [{path: {type: RegularExpression, value: '('}}]}"),
            "spec.rules[0].matches[0].path.value",
        ),
        (
            route("{matches: [{headers: [{name: x, type: RegularExpression, value: '['}]}]}"),
            "spec.rules[0].matches[0].headers[0].value",
        ),
        (
            route("{timeouts: {request: soon}}"),
            "spec.rules[0].timeouts.request",
        ),
        (route("{retry: {codes: [200]}}"), "spec.rules[0].retry.codes[0]"),
        (route("{retry: {attempts: -1}}"), "spec.rules[0].retry.attempts"),
        (
            route("{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 300}}]}"),
            "spec.rules[0].filters[0].requestRedirect.statusCode",
        ),
    ] {
        assert_eq!(rejected(&yaml).field, field, "{yaml}");
    }
}

#[test]
fn headers_that_sidecars_write_are_changed_by_no_route() {
    let kinds = [
        ("RequestHeaderModifier", "requestHeaderModifier"),
        ("ResponseHeaderModifier", "responseHeaderModifier"),
    ];
    let names = [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "x-weft-client-id",
        "X_Weft_Attempt",
    ];
    for ((kind, member), name) in kinds.iter().flat_map(|kind| names.map(|name| (kind, name))) {
        for change in [
            format!("{{set: [{{name: fine, value: v}}, {{name: {name}, value: v}}]}}"),
            format!("{{add: [{{name: {name}, value: v}}]}}"),
            format!("{{remove: [fine, {name}]}}"),
        ] {
            let filters = format!("filters: [{{type: {kind}, {member}: {change}}}]");
            let refused = rejected(&route(&format!("{{{filters}}}")));
            assert_eq!(refused.field, "spec.rules[0].filters[0]", "{change}");
            let refused = rejected(&route(&format!(
                "{{backendRefs: [{{name: user, port: 80, {filters}}}]}}"
            )));
            assert_eq!(
                refused.field, "spec.rules[0].backendRefs[0].filters[0]",
                "{change}"
            );
        }
    }
}

#[test]
fn an_object_without_a_namespace_is_in_default() {
    let item =
        ingest(&objects("{kind: Pod, apiVersion: v1, metadata: {name: p}, spec: {containers: []}}")[0]);
    assert_eq!(
        item.unwrap().unwrap().id(),
        Id::Pod(ObjectName::new("default", "p"))
    );
}

#[test]
fn other_transports_than_tcp_are_left_out() {
    let item = ingest(
        &objects(
            "{kind: Service, apiVersion: v1, metadata: {name: s}, spec: {ports: [{port: 53, protocol: UDP}, {port: 53, name: x}]}}",
        )[0],
    );
    let Ok(Some(Item::Service(service))) = item else {
        panic!("{item:?}")
    };
    assert_eq!(service.ports.len(), 1);
}

#[test]
fn an_object_and_its_item_have_one_name() {
    let yaml = "
{kind: Service, apiVersion: v1, metadata: {name: s}, spec: {ports: []}}
---
{kind: Pod, apiVersion: v1, metadata: {name: s}, spec: {containers: []}}
---
{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {name: s, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, endpoints: []}
---
{kind: HTTPRoute, apiVersion: v1, metadata: {name: s}, spec: {}}
---
{kind: GRPCRoute, apiVersion: v1, metadata: {name: s}, spec: {}}
---
{kind: TrafficPolicy, apiVersion: v1, metadata: {name: s}, spec: {targetRefs: []}}
---
{kind: MeshTLSPolicy, apiVersion: v1, metadata: {name: s}, spec: {mode: Strict, targetRefs: []}}
";
    for object in objects(yaml) {
        let item = ingest(&object).unwrap().unwrap();
        assert_eq!(Some(item.id()), id(&object.object_ref()));
    }
}

#[test]
fn ports_that_lead_to_one_port_have_to_agree() {
    let said = |ports: &str| {
        let text = format!("{{metadata: {{name: user, namespace: shop}}, spec: {{ports: [{ports}]}}}}");
        let service = serde_yaml::from_str::<weft_api::kubernetes::Service>(&text).unwrap();
        contradictions(&service).join("; ")
    };
    let http = "{name: http, port: 80, targetPort: 8080}";
    let grpc = |port: &str| format!("{http}, {{name: grpc, port: 81, {port}}}");
    assert_eq!(
        said(&grpc("targetPort: 8080")),
        "shop/user: port 80 (http) and port 81 (grpc) lead to port 8080 of its pods"
    );
    for agrees in [
        grpc("targetPort: 8081"),
        grpc("targetPort: 8080, appProtocol: http"),
        grpc("targetPort: 8080, protocol: UDP"),
        grpc("targetPort: 8080, appProtocol: unheard.of/word"),
        http.to_owned(),
    ] {
        assert_eq!(said(&agrees), "", "{agrees}");
    }
}
