//! Routes: who binds for whom, and what their rules come to.

use std::time::Duration;

use super::*;
use crate::resource::{Action, PathMatch, PathRewrite, Rule};

/// An HTTPRoute on `shop/user` with these rules.
fn http(namespace: &str, name: &str, rules: &str) -> String {
    route("HTTPRoute", namespace, name, rules)
}

fn route(kind: &str, namespace: &str, name: &str, rules: &str) -> String {
    format!(
        "---\n{{kind: {kind}, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, namespace: shop, name: user}}], rules: {rules}}}}}\n"
    )
}

fn rules(catalog: &mut Catalog, namespace: &str) -> Vec<Rule> {
    table(catalog, USER_NAME, namespace)
        .unwrap()
        .hosts
        .remove(0)
        .rules
}

fn names(rules: &[Rule]) -> Vec<&str> {
    rules.iter().map(|rule| &*rule.name).collect()
}

fn only(yaml: &str) -> Rule {
    let mut found = rules(&mut user_and(yaml), "shop");
    assert_eq!(found.len(), 1);
    found.remove(0)
}

const TO_USER: &str = "[{backendRefs: [{name: user, port: 80}]}]";

#[test]
fn a_producers_route_binds_for_all_and_a_consumers_replaces_it_for_its_own_namespace() {
    let text = format!(
        "{}{}",
        http("shop", "producer", TO_USER),
        http("client", "consumer", TO_USER)
    );
    let mut catalog = user_and(&text);
    assert_eq!(names(&rules(&mut catalog, "shop")), ["HTTPRoute/shop/producer/0"]);
    assert_eq!(
        names(&rules(&mut catalog, "other")),
        ["HTTPRoute/shop/producer/0"]
    );
    assert_eq!(
        names(&rules(&mut catalog, "client")),
        ["HTTPRoute/client/consumer/0"]
    );
}

#[test]
fn a_route_that_never_matches_leaves_nothing_to_the_service_itself() {
    let mut catalog = user_and(&http(
        "shop",
        "r",
        "[{matches: [{path: {type: Exact, value: /a}}], backendRefs: [{name: user, port: 80}]}]",
    ));
    let found = rules(&mut catalog, "shop");
    assert_eq!(names(&found), ["HTTPRoute/shop/r/0"]);
    assert_eq!(found[0].matches.path, PathMatch::Exact("/a".into()));
}

#[test]
fn a_route_on_another_port_is_none() {
    let other = http("shop", "r", TO_USER).replace("name: user}]", "name: user, port: 81}]");
    assert_eq!(
        names(&rules(&mut user_and(&other), "shop")),
        ["Service/shop/user/80"]
    );
    let own = http("shop", "r", TO_USER).replace("name: user}]", "name: user, port: 80}]");
    assert_eq!(names(&rules(&mut user_and(&own), "shop")), ["HTTPRoute/shop/r/0"]);
}

#[test]
fn a_route_of_a_gateway_is_none_of_ours() {
    let gateway = http("shop", "r", TO_USER).replace("group: '', kind: Service, ", "");
    assert_eq!(
        names(&rules(&mut user_and(&gateway), "shop")),
        ["Service/shop/user/80"]
    );
}

#[test]
fn grpc_excludes_http_and_makes_the_port_speak_grpc() {
    let text = format!(
        "{}{}",
        http("shop", "h", TO_USER),
        route("GRPCRoute", "shop", "g", TO_USER)
    );
    let mut catalog = user_and(&text);
    let found = rules(&mut catalog, "shop");
    assert_eq!(names(&found), ["GRPCRoute/shop/g/0"]);
    assert!(found[0].matches.grpc);
    assert_eq!(protocol(&mut catalog, USER_NAME, "shop"), Protocol::Grpc);
    assert_eq!(cluster(&mut catalog, USER_NAME).protocol, Protocol::Grpc);
}

#[test]
fn a_backend_of_a_grpc_route_speaks_grpc_unless_it_says_otherwise() {
    let services = "---
{kind: Service, apiVersion: v1, metadata: {name: quiet, namespace: shop}, spec: {ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: loud, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
";
    let route = route(
        "GRPCRoute",
        "shop",
        "g",
        "[{backendRefs: [{name: quiet, namespace: shop, port: 80}, {name: loud, port: 80}]}]",
    );
    let text = format!("{services}{route}");
    let mut catalog = user_and(&text);
    assert_eq!(
        cluster(&mut catalog, "quiet.shop.svc.cluster.local:80").protocol,
        Protocol::Grpc
    );
    assert_eq!(
        cluster(&mut catalog, "loud.shop.svc.cluster.local:80").protocol,
        Protocol::Http1
    );
    let foreign = text.replace("name: g, namespace: shop", "name: g, namespace: client");
    let mut catalog = user_and(&foreign);
    assert_eq!(
        cluster(&mut catalog, "quiet.shop.svc.cluster.local:80").protocol,
        Protocol::Detect,
        "another namespace says nothing about it"
    );
}

#[test]
fn opaque_ports_take_no_routes() {
    let text = format!(
        "{}{}",
        USER.replace("{port: 80,", "{name: tcp, port: 80,"),
        http("shop", "r", TO_USER)
    );
    let mut catalog = catalog(&text);
    assert_eq!(table(&mut catalog, USER_NAME, "shop"), None);
    assert_eq!(protocol(&mut catalog, USER_NAME, "shop"), Protocol::Tcp);
}

#[test]
fn grpc_methods_are_paths() {
    for (matched, expected) in [
        ("{headers: []}", PathMatch::Prefix("/".into())),
        (
            "{method: {service: shop.User}}",
            PathMatch::Prefix("/shop.User".into()),
        ),
        (
            "{method: {service: shop.User, method: Get}}",
            PathMatch::Exact("/shop.User/Get".into()),
        ),
        ("{method: {method: Get}}", PathMatch::Regex("/[^/]+/Get".into())),
        (
            "{method: {type: RegularExpression, service: 'a|b', method: 'G.*'}}",
            PathMatch::Regex("/(?:a|b)/(?:G.*)".into()),
        ),
        (
            "{method: {type: RegularExpression, method: 'G.*'}}",
            PathMatch::Regex("/[^/]+/(?:G.*)".into()),
        ),
    ] {
        let rules = format!("[{{matches: [{matched}], backendRefs: [{{name: user, port: 80}}]}}]");
        assert_eq!(
            only(&route("GRPCRoute", "shop", "g", &rules)).matches.path,
            expected,
            "{matched}"
        );
    }
}

#[test]
fn an_invalid_backend_keeps_its_share() {
    let rule = only(&http(
        "shop",
        "r",
        "[{backendRefs: [{name: user, port: 80, weight: 9}, {name: nobody, port: 80}, {name: user, port: 1, weight: 2}, \
         {kind: Bucket, name: user, port: 80, weight: 0}]}]",
    ));
    let Action::Forward(backends) = rule.action else {
        panic!("{rule:?}")
    };
    let short: Vec<(u32, Option<&str>)> = backends
        .iter()
        .map(|backend| (backend.weight, backend.cluster.as_deref()))
        .collect();
    assert_eq!(short, [(9, Some(USER_NAME)), (1, None), (2, None), (0, None)]);
}

#[test]
fn a_backend_in_another_namespace_needs_no_grant() {
    let other = "---\n{kind: Service, apiVersion: v1, metadata: {name: far, namespace: other}, spec: {ports: [{port: 80}]}}\n";
    let route = http(
        "shop",
        "r",
        "[{backendRefs: [{name: far, namespace: other, port: 80}]}]",
    );
    let Action::Forward(backends) = only(&format!("{other}{route}")).action else {
        panic!()
    };
    assert_eq!(
        backends[0].cluster.as_deref(),
        Some("far.other.svc.cluster.local:80")
    );
}

#[test]
fn a_rule_without_backends_answers_500() {
    assert_eq!(only(&http("shop", "r", "[{}]")).action, Action::Respond(500));
}

#[test]
fn a_filter_that_cannot_be_honoured_answers_500_and_never_passes() {
    let mirror = "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: user, port: 80}}}], backendRefs: [{name: user, port: 80}]}]";
    assert_eq!(only(&http("shop", "r", mirror)).action, Action::Respond(500));
    let on_backend =
        "[{backendRefs: [{name: user, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: x}}]}]}]";
    let Action::Forward(backends) = only(&http("shop", "r", on_backend)).action else {
        panic!()
    };
    assert_eq!(backends[0].cluster, None);
    let prefix = "[{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: \
                  ReplacePrefixMatch, replacePrefixMatch: /b}}}], backendRefs: [{name: user, port: 80}]}]";
    assert_eq!(only(&http("shop", "r", prefix)).action, Action::Respond(500));
}

#[test]
fn header_changes_are_lower_case_and_the_first_of_a_name_counts() {
    let rule = only(&http(
        "shop",
        "r",
        "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: '1'}, {name: x-a, \
         value: '2'}], add: [{name: X-B, value: '3'}], remove: [X-C]}}, {type: ResponseHeaderModifier, \
         responseHeaderModifier: {remove: [X-D]}}], backendRefs: [{name: user, port: 80, filters: [{type: \
         RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-E, value: '4'}]}}]}]}]",
    ));
    assert_eq!(rule.request.set, [("x-a".to_owned(), "1".to_owned())]);
    assert_eq!(rule.request.add, [("x-b".to_owned(), "3".to_owned())]);
    assert_eq!(
        (rule.request.remove, rule.response.remove),
        (vec!["x-c".to_owned()], vec!["x-d".to_owned()])
    );
    let Action::Forward(backends) = rule.action else {
        panic!()
    };
    assert_eq!(backends[0].request.set, [("x-e".to_owned(), "4".to_owned())]);
}

#[test]
fn a_redirect_goes_to_its_schemes_own_port() {
    let redirect = |says: &str| {
        only(&http(
            "shop",
            "r",
            &format!("[{{filters: [{{type: RequestRedirect, requestRedirect: {{{says}}}}}]}}]"),
        ))
        .action
    };
    let expected = |scheme: Option<&str>, port, status| Action::Redirect {
        scheme: scheme.map(Into::into),
        host: None,
        port,
        path: None,
        status,
    };
    assert_eq!(redirect("scheme: https"), expected(Some("https"), Some(443), 302));
    assert_eq!(
        redirect("scheme: http, port: 8080"),
        expected(Some("http"), Some(8080), 302)
    );
    assert_eq!(redirect("statusCode: 308"), expected(None, None, 308));
}

#[test]
fn rewrites_timeouts_and_retries_are_taken_over() {
    let rule = only(&http(
        "shop",
        "r",
        "[{name: main, matches: [{path: {type: PathPrefix, value: /a/}}], filters: [{type: URLRewrite, urlRewrite: {hostname: h, \
         path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}], timeouts: {request: 10s, backendRequest: 0s}, retry: \
         {attempts: 3, codes: [503, 500], backoff: 100ms}, backendRefs: [{name: user, port: 80}]}]",
    ));
    assert_eq!(&*rule.name, "HTTPRoute/shop/r/main");
    assert_eq!(rule.matches.path, PathMatch::Prefix("/a".into()));
    assert_eq!(rule.rewrite.host.as_deref(), Some("h"));
    assert_eq!(rule.rewrite.path, Some(PathRewrite::Prefix("/b".into())));
    assert_eq!(
        (rule.timeout, rule.attempt_timeout),
        (Some(Duration::from_secs(10)), None)
    );
    let retry = rule.retry.unwrap();
    assert_eq!((retry.attempts, retry.statuses), (3, vec![500, 503]));
    assert_eq!(
        (retry.backoff_base, retry.backoff_max),
        (Duration::from_millis(100), Duration::from_secs(1))
    );
}

#[test]
fn a_rule_with_two_matches_becomes_two() {
    let text = "[{matches: [{path: {value: /a}}, {path: {type: Exact, value: /b}}], backendRefs: [{name: user, port: 80}]}]";
    let found = rules(&mut user_and(&http("shop", "r", text)), "shop");
    assert_eq!(found[0].matches.path, PathMatch::Exact("/b".into()));
    assert_eq!(found[1].matches.path, PathMatch::Prefix("/a".into()));
    assert_eq!(found[0].action, found[1].action);
}
