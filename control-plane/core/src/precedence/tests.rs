use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ingest::ingest;
use crate::resource::{PathMatch, RouteMatch};
use crate::testing::objects;
use crate::world::Item;
use crate::world::rank::Specificity;

fn routes(yaml: &str) -> Vec<Arc<Route>> {
    let items = objects(yaml)
        .into_iter()
        .map(|object| ingest(&object).unwrap().unwrap());
    items
        .map(|item| {
            if let Item::Route(route) = item {
                route
            } else {
                panic!("no route")
            }
        })
        .collect()
}

fn http(name: &str, created: &str, matches: &str) -> String {
    let created = if created.is_empty() {
        String::new()
    } else {
        format!(", creationTimestamp: '{created}'")
    };
    format!(
        "{{kind: HTTPRoute, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: {name}, namespace: shop{created}}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, name: user}}], rules: [{{name: r0, matches: [{matches}]}}]}}}}"
    )
}

/// The names of the routes in order of their matches.
fn order(yaml: &[String]) -> Vec<String> {
    let routes = routes(&yaml.join("\n---\n"));
    let routes: Vec<&Route> = routes.iter().map(AsRef::as_ref).collect();
    in_order(&routes)
        .iter()
        .map(|(route, ..)| route.name.name.to_string())
        .collect()
}

#[test]
fn the_gateway_apis_order_of_http_matches() {
    let ranked = [
        http("exact", "", "{path: {type: Exact, value: /a}}"),
        http("regex", "", "{path: {type: RegularExpression, value: '/a.*'}}"),
        http("longer", "", "{path: {type: PathPrefix, value: /a/b}}"),
        http("method", "", "{path: {type: PathPrefix, value: /a}, method: GET}"),
        http(
            "headers",
            "",
            "{path: {type: PathPrefix, value: /a}, headers: [{name: x, value: y}, {name: z, value: y}]}",
        ),
        http(
            "header",
            "",
            "{path: {type: PathPrefix, value: /a}, headers: [{name: x, value: y}]}",
        ),
        http(
            "query",
            "",
            "{path: {type: PathPrefix, value: /a}, queryParams: [{name: x, value: y}]}",
        ),
        http("shorter", "", "{path: {type: PathPrefix, value: /a}}"),
        http("any", "", "{headers: []}"),
    ];
    let expected = [
        "exact", "regex", "longer", "method", "headers", "header", "query", "shorter", "any",
    ];
    let mut reversed = ranked.clone();
    reversed.reverse();
    assert_eq!(order(&ranked), expected);
    assert_eq!(order(&reversed), expected);
}

#[test]
fn ties_go_to_the_oldest_then_to_the_first_name_and_a_route_without_age_is_youngest() {
    let same = "{path: {type: PathPrefix, value: /a}}";
    let ranked = [
        http("a-ageless", "", same),
        http("c-young", "2026-02-01T00:00:00Z", same),
        http("b-young", "2026-02-01T00:00:00Z", same),
        http("z-old", "2026-01-01T00:00:00Z", same),
    ];
    assert_eq!(order(&ranked), ["z-old", "b-young", "c-young", "a-ageless"]);
}

#[test]
fn a_trailing_slash_adds_nothing_to_a_prefix() {
    let ranked = [
        http("b", "", "{path: {type: PathPrefix, value: /abc/}}"),
        http("a", "", "{path: {type: PathPrefix, value: /abc}}"),
    ];
    assert_eq!(order(&ranked), ["a", "b"]);
}

#[test]
fn grpc_matches_go_by_service_then_method_then_headers() {
    let grpc = |name: &str, matched: &str| {
        format!(
            "{{kind: GRPCRoute, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{parentRefs: [{{group: '', kind: Service, name: user}}], rules: [{{matches: [{matched}]}}]}}}}"
        )
    };
    let ranked = [
        grpc("longer", "{method: {service: shop.Users, method: Get}}"),
        grpc("method", "{method: {service: shop.User, method: Get}}"),
        grpc(
            "header",
            "{method: {service: shop.User}, headers: [{name: x, value: y}]}",
        ),
        grpc("service", "{method: {service: shop.User}}"),
        grpc("only-method", "{method: {method: Get}}"),
        grpc("any", "{headers: []}"),
        grpc(
            "regex",
            "{method: {type: RegularExpression, service: 'shop[.].*', method: Get}}",
        ),
    ];
    let mut reversed = ranked.clone();
    reversed.reverse();
    let expected = [
        "longer",
        "method",
        "header",
        "service",
        "only-method",
        "any",
        "regex",
    ];
    assert_eq!(order(&reversed), expected);
}

/// What comes first, said once more and pairwise, in the Gateway API's words.
fn before(a: &RouteMatch, b: &RouteMatch) -> bool {
    let class = |path: &PathMatch| match path {
        PathMatch::Exact(_) => 0,
        PathMatch::Regex(_) => 1,
        PathMatch::Prefix(_) => 2,
    };
    let length = |path: &PathMatch| match path {
        PathMatch::Exact(text) | PathMatch::Regex(text) | PathMatch::Prefix(text) => text.len(),
    };
    if class(&a.path) != class(&b.path) {
        return class(&a.path) < class(&b.path);
    }
    if length(&a.path) != length(&b.path) {
        return length(&a.path) > length(&b.path);
    }
    if a.method.is_some() != b.method.is_some() {
        return a.method.is_some();
    }
    if a.headers.len() != b.headers.len() {
        return a.headers.len() > b.headers.len();
    }
    a.query.len() > b.query.len()
}

fn any_match() -> impl Strategy<Value = RouteMatch> {
    let value = || crate::resource::ValueMatch::Exact("v".into());
    let path = ("/[ab]{0,3}", 0..3).prop_map(|(path, class)| match class {
        0 => PathMatch::Exact(path),
        1 => PathMatch::Regex(path),
        _ => PathMatch::Prefix(path),
    });
    (path, any::<bool>(), 0..3_usize, 0..3_usize).prop_map(move |(path, method, headers, query)| RouteMatch {
        path,
        method: method.then(|| "GET".to_owned()),
        headers: (0..headers).map(|name| (name.to_string(), value())).collect(),
        query: (0..query).map(|name| (name.to_string(), value())).collect(),
        grpc: false,
    })
}

proptest! {
    #[test]
    fn ranks_order_as_the_rules_say_pairwise(a in any_match(), b in any_match()) {
        prop_assert_eq!(Specificity::http(&a) < Specificity::http(&b), before(&a, &b));
    }
}
