use super::*;
use crate::testing::catalog;

const SERVICES: &str = "
{kind: Service, apiVersion: v1, metadata: {name: user, namespace: shop}, spec: {ports: [{name: http, port: 80}, {name: tcp, port: 81}]}}
---
{kind: Namespace, apiVersion: v1, metadata: {name: shop}}
";

fn route(kind: &str, namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\n{{kind: {kind}, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, namespace: shop, {parent}}}], rules: [{rules}]}}}}\n"
    )
}

const FINE: &str = "{backendRefs: [{name: user, namespace: shop, port: 80}]}";

/// `type=reason` of everything said of an object, in order.
fn said(text: &str, object: &str) -> Vec<String> {
    let all = catalog(&format!("{SERVICES}{text}")).conditions();
    let status = all
        .into_iter()
        .find(|status| status.object.to_string() == object)
        .unwrap();
    let say = |condition: &Condition| {
        assert_eq!(
            condition.holds,
            matches!(condition.reason, Reason::Accepted | Reason::ResolvedRefs)
        );
        format!("{:?}={}", condition.kind, condition.reason)
    };
    status.conditions.iter().map(say).collect()
}

#[test]
fn a_route_says_why_it_is_not_in_force() {
    for (parent, rules, accepted, resolved) in [
        ("name: user", FINE, "Accepted", "ResolvedRefs"),
        ("name: nobody", FINE, "NoMatchingParent", "ResolvedRefs"),
        ("name: user, port: 82", FINE, "NoMatchingParent", "ResolvedRefs"),
        (
            "name: user, port: 81",
            FINE,
            "UnsupportedProtocol",
            "ResolvedRefs",
        ),
        (
            "name: user",
            "{backendRefs: [{name: nobody, port: 80}]}",
            "Accepted",
            "BackendNotFound",
        ),
        (
            "name: user",
            "{backendRefs: [{name: user, port: 99}]}",
            "Accepted",
            "BackendNotFound",
        ),
        (
            "name: user",
            "{backendRefs: [{kind: Bucket, name: user, port: 80}]}",
            "Accepted",
            "InvalidKind",
        ),
        (
            "name: user",
            "{filters: [{type: CORS, cors: {}}]}",
            "UnsupportedValue",
            "ResolvedRefs",
        ),
    ] {
        let found = said(
            &route("HTTPRoute", "shop", "r", parent, rules),
            "HTTPRoute shop/r",
        );
        assert_eq!(
            found,
            [format!("Accepted={accepted}"), format!("ResolvedRefs={resolved}")],
            "{parent} {rules}"
        );
    }
}

#[test]
fn a_route_on_a_port_that_a_pod_says_is_opaque_is_not_in_force() {
    let pod = |annotations: &str| {
        format!(
            "---\n{{kind: Pod, apiVersion: v1, metadata: {{name: p, namespace: shop, labels: {{app: user}}, annotations: \
             {{{annotations}}}}}, spec: {{containers: []}}}}\n---\n{{kind: Service, apiVersion: v1, metadata: {{name: \
             user, namespace: shop}}, spec: {{selector: {{app: user}}, ports: [{{name: http, port: 80, targetPort: \
             8080}}]}}}}\n"
        )
    };
    let route = route("HTTPRoute", "shop", "r", "name: user", FINE);
    for (annotations, accepted) in [
        ("", "Accepted=Accepted"),
        ("weft.dev/opaque-ports: '9090'", "Accepted=Accepted"),
        ("weft.dev/opaque-ports: '8080'", "Accepted=UnsupportedProtocol"),
    ] {
        let text = format!("{}{route}", pod(annotations));
        assert_eq!(said(&text, "HTTPRoute shop/r")[0], accepted, "{annotations}");
    }
}

#[test]
fn a_grpc_route_excludes_an_http_route_only_among_those_for_the_same_clients() {
    let http = route("HTTPRoute", "shop", "r", "name: user", FINE);
    let grpc = |namespace| route("GRPCRoute", namespace, "g", "name: user", FINE);
    assert_eq!(
        said(&format!("{http}{}", grpc("shop")), "HTTPRoute shop/r")[0],
        "Accepted=Conflicted"
    );
    assert_eq!(
        said(&format!("{http}{}", grpc("shop")), "GRPCRoute shop/g")[0],
        "Accepted=Accepted"
    );
    assert_eq!(
        said(&format!("{http}{}", grpc("client")), "HTTPRoute shop/r")[0],
        "Accepted=Accepted"
    );
}

#[test]
fn a_route_without_a_service_for_a_parent_is_not_ours() {
    let gateway =
        route("HTTPRoute", "shop", "r", "name: user", FINE).replace("group: '', kind: Service, ", "");
    assert_eq!(said(&gateway, "HTTPRoute shop/r"), ["Accepted=Accepted"]);
}

#[test]
fn of_two_policies_with_one_target_the_younger_is_conflicted() {
    let policy = |name: &str, target: &str| {
        format!(
            "---\n{{kind: TrafficPolicy, apiVersion: weft.dev/v1alpha1, metadata: {{name: {name}, namespace: shop}}, spec: {{targetRefs: [{{group: '', kind: Service, {target}}}]}}}}\n"
        )
    };
    let text = [
        policy("a", "name: user"),
        policy("b", "name: user"),
        policy("c", "name: user, sectionName: http"),
        policy("d", "name: user, sectionName: nope"),
        policy("e", "name: nobody"),
    ]
    .concat();
    let expected = [
        ("a", "Accepted"),
        ("b", "Conflicted"),
        ("c", "Accepted"),
        ("d", "TargetNotFound"),
        ("e", "TargetNotFound"),
    ];
    for (name, reason) in expected {
        assert_eq!(
            said(&text, &format!("TrafficPolicy shop/{name}")),
            [
                format!("Accepted={reason}"),
                format!("ResolvedRefs={}", found(reason))
            ]
        );
    }
}

/// What a policy's `ResolvedRefs` says beside this reason of `Accepted`.
fn found(accepted: &str) -> &str {
    match accepted {
        "TargetNotFound" => accepted,
        _ => "ResolvedRefs",
    }
}

#[test]
fn tls_policies_conflict_by_target_too() {
    let policy = |name: &str, target: &str| {
        format!(
            "---\n{{kind: MeshTLSPolicy, apiVersion: weft.dev/v1alpha1, metadata: {{name: {name}, namespace: shop}}, spec: {{mode: Strict, targetRefs: [{{group: '', {target}}}]}}}}\n"
        )
    };
    let text = [
        policy("a", "kind: Namespace, name: shop"),
        policy("b", "kind: Namespace, name: shop"),
        policy("c", "kind: Service, name: nobody"),
        policy("d", "kind: Namespace, name: other"),
    ]
    .concat();
    let expected = [("a", "Accepted"), ("b", "Conflicted"), ("c", "TargetNotFound")];
    for (name, reason) in expected {
        assert_eq!(
            said(&text, &format!("MeshTLSPolicy shop/{name}")),
            [
                format!("Accepted={reason}"),
                format!("ResolvedRefs={}", found(reason))
            ]
        );
    }
    assert_eq!(said(&text, "MeshTLSPolicy shop/d"), ["Accepted=Invalid"]);
}

#[test]
fn every_object_has_a_status() {
    assert_eq!(catalog(SERVICES).conditions().len(), 2);
    assert_eq!(said("", "Namespace shop"), ["Accepted=Accepted"]);
}
