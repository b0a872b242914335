//! The table against a matcher that takes everything apart into owned strings, and examples for each rule.

use std::str::FromStr;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::resource::{HeaderMatch, PathMatch, QueryMatch, Redirect, RouteMatch, ValueMatch};

fn rule(path: PathMatch) -> Rule {
    Rule {
        name: "HTTPRoute/shop/product/0".into(),
        matches: RouteMatch {
            path,
            method: None,
            headers: vec![],
            query: vec![],
        },
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
        rewrite: Rewrite::default(),
        action: Action::Forward(vec![]),
        timeout: None,
        attempt_timeout: None,
        retry: None,
    }
}

fn prefix(path: &str) -> Rule {
    rule(PathMatch::Prefix(path.into()))
}

fn table(rules: Vec<Rule>) -> Result<Table, RouteError> {
    Table::compile(&RouteConfig {
        name: "product:80".into(),
        rules,
    })
}

fn compile(rule: Rule) -> CompiledRule {
    table(vec![rule]).expect("valid").rules.remove(0)
}

fn matches(rule: Rule, uri: &str, headers: &[(&str, &[u8])]) -> bool {
    let headers = headers
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_str(name).expect("a name"),
                HeaderValue::from_bytes(value).expect("a value"),
            )
        })
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        });
    let (path, query) = uri
        .split_once('?')
        .map_or((uri, None), |(path, query)| (path, Some(query)));
    let head = RequestHead {
        method: &Method::GET,
        path,
        query,
        headers: &headers,
    };
    table(vec![rule]).expect("valid").find(&head).is_some()
}

fn with_header(value: ValueMatch) -> Rule {
    let mut rule = prefix("/");
    rule.matches.headers.push(HeaderMatch {
        name: HeaderName::from_static("version"),
        value,
    });
    rule
}

fn with_query(name: &str, value: ValueMatch) -> Rule {
    let mut rule = prefix("/");
    rule.matches.query.push(QueryMatch {
        name: name.into(),
        value,
    });
    rule
}

fn regex(pattern: &str) -> ValueMatch {
    ValueMatch::Regex(pattern.into())
}

#[test]
fn prefixes_match_whole_segments() {
    for (rule, path, expected) in [
        ("/a", "/a", true),
        ("/a", "/a/", true),
        ("/a", "/a/b", true),
        ("/a", "/ab", false),
        ("/a/", "/a", true),
        ("/a/", "/ab", false),
        ("/", "/anything", true),
        ("/", "*", true),
        ("/a/b", "/a", false),
    ] {
        assert_eq!(matches(prefix(rule), path, &[]), expected, "{rule} {path}");
    }
}

#[test]
fn patterns_match_the_whole_value_whatever_they_hold() {
    let path = |pattern: &str, path: &str| matches(rule(PathMatch::Regex(pattern.into())), path, &[]);
    assert!(path("/a|/b/c", "/b/c"));
    assert!(!path("/a|/b", "/b/c"));
    assert!(!path("/a", "/a/b") && !path("b", "/a/b"));
    assert!(path("(?i)/A.*", "/abc"));
    assert!(
        table(vec![rule(PathMatch::Regex("/a)|(?:/b".into()))]).is_err(),
        "brackets that don't match"
    );
}

#[test]
fn patterns_that_are_wrong_or_too_large_are_refused_with_reason() {
    for (pattern, reason) in [
        ("(".to_owned(), "unclosed group"),
        ("(?=a)".to_owned(), "look-around"),
        ("(a{1000}){1000}".to_owned(), "larger than"),
        ("a".repeat(5000), "longer than"),
    ] {
        let error = table(vec![with_header(regex(&pattern))])
            .expect_err("refused")
            .to_string();
        assert!(
            error.contains(reason) && error.contains("header version") && error.contains("shop/product"),
            "{error}"
        );
    }
}

#[test]
fn headers_are_compared_as_bytes_and_joined() {
    let twice: &[(&str, &[u8])] = &[("version", b"1"), ("other", b"x"), ("version", b"2")];
    assert!(matches(with_header(ValueMatch::Exact("1,2".into())), "/", twice));
    assert!(!matches(with_header(ValueMatch::Exact("1".into())), "/", twice));
    assert!(matches(with_header(regex("1,[0-9]")), "/", twice));
    let odd: &[(&str, &[u8])] = &[("version", b"a\xffb")];
    assert!(matches(with_header(regex("a.b")), "/", odd));
    assert!(matches(with_header(ValueMatch::Present), "/", odd));
    assert!(!matches(with_header(ValueMatch::Present), "/", &[]));
    assert!(matches(
        with_header(ValueMatch::Present),
        "/",
        &[("version", b"")]
    ));
}

#[test]
fn cookies_are_joined_as_cookies() {
    let mut rule = prefix("/");
    rule.matches.headers.push(HeaderMatch {
        name: http::header::COOKIE,
        value: ValueMatch::Exact("a=1; b=2".into()),
    });
    assert!(matches(rule, "/", &[("cookie", b"a=1"), ("cookie", b"b=2")]));
}

#[test]
fn query_parameters_match_as_sent_or_decoded() {
    let exact = |value: &str| with_query("q", ValueMatch::Exact(value.into()));
    assert!(matches(exact("a b"), "/?q=a%20b", &[]) && matches(exact("a b"), "/?q=a+b", &[]));
    assert!(matches(exact("a%20b"), "/?q=a%20b", &[]));
    assert!(matches(exact("1"), "/?x=0&q=1&q=2", &[]) && !matches(exact("2"), "/?q=1&q=2", &[]));
    assert!(
        matches(exact(""), "/?q", &[]) && matches(exact(""), "/?q=", &[]) && !matches(exact(""), "/?", &[])
    );
    assert!(matches(exact("1=2"), "/?q=1=2", &[]));
    assert!(matches(with_query("a b", ValueMatch::Present), "/?a%20b=1", &[]));
    assert!(matches(with_query("q", regex("[ab ]+")), "/?q=a%20b", &[]));
    assert!(matches(exact("100%"), "/?q=100%25", &[]) && matches(exact("%zz b"), "/?q=%zz+b", &[]));
}

#[test]
fn the_first_rule_that_matches_wins() {
    let table = table(vec![prefix("/a/b"), prefix("/a"), prefix("/")]).expect("valid");
    let headers = HeaderMap::new();
    let find = |path| {
        let head = RequestHead {
            method: &Method::GET,
            path,
            query: None,
            headers: &headers,
        };
        table.find(&head).map(|rule| rule.rule().matches.path.clone())
    };
    assert_eq!(find("/a/b/c"), Some(PathMatch::Prefix("/a/b".into())));
    assert_eq!(find("/a/c"), Some(PathMatch::Prefix("/a".into())));
    assert_eq!(find("/c"), Some(PathMatch::Prefix("/".into())));
}

#[test]
fn prefixes_are_replaced_by_the_gateway_apis_table() {
    for (path, matched, new, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/bar", "/", "/xyz", "/xyz/bar"),
        ("/bar", "/", "/", "/bar"),
    ] {
        let mut rule = prefix(matched);
        rule.rewrite.path = Some(PathRewrite::Prefix(new.into()));
        assert_eq!(
            compile(rule).rewrite_path(path).as_deref(),
            Some(expected),
            "{path} {matched} {new}"
        );
    }
}

#[test]
fn what_could_not_be_sent_is_refused() {
    let rewrite = |rewrite: Rewrite| {
        table(vec![Rule {
            rewrite,
            ..rule(PathMatch::Exact("/".into()))
        }])
        .map(drop)
    };
    let path = |path| {
        rewrite(Rewrite {
            path: Some(path),
            host: None,
        })
    };
    assert!(path(PathRewrite::Full("/ok".into())).is_ok());
    assert!(matches!(
        path(PathRewrite::Prefix("/ok".into())),
        Err(RouteError::PrefixWithoutPrefix { .. })
    ));
    for bad in ["/a b", "/a?b", "/a#b", "/a\r\nb"] {
        assert!(
            matches!(path(PathRewrite::Full(bad.into())), Err(RouteError::Path { .. })),
            "{bad}"
        );
    }
    let host = |host: &str| {
        rewrite(Rewrite {
            path: None,
            host: Some(host.into()),
        })
    };
    assert!(host("example.org:80").is_ok());
    assert!(matches!(host("a b"), Err(RouteError::Host { .. })));
}

fn redirect(scheme: Option<&str>, host: Option<&str>, port: Option<u16>) -> Redirect {
    Redirect {
        scheme: scheme.map(Into::into),
        host: host.map(Into::into),
        port,
        path: None,
        status: StatusCode::FOUND,
    }
}

#[test]
fn locations_follow_the_gateway_api() {
    let asked = Asked {
        scheme: "http",
        host: "echo",
        port: Some(8080),
        path: "/a",
        query: Some("x=1"),
    };
    for (redirect, expected) in [
        (
            redirect(None, Some("example.org"), None),
            "http://example.org:8080/a?x=1",
        ),
        (redirect(Some("https"), None, None), "https://echo/a?x=1"),
        (redirect(Some("https"), None, Some(443)), "https://echo/a?x=1"),
        (
            redirect(Some("https"), None, Some(8443)),
            "https://echo:8443/a?x=1",
        ),
        (redirect(None, None, Some(80)), "http://echo/a?x=1"),
        (redirect(Some("http"), None, Some(443)), "http://echo:443/a?x=1"),
    ] {
        let compiled = compile(Rule {
            action: Action::Redirect(redirect),
            ..prefix("/")
        });
        assert_eq!(compiled.location(&asked).as_deref(), Some(expected));
    }
    let path = Some(PathRewrite::Prefix("/new".into()));
    let moved = Rule {
        action: Action::Redirect(Redirect {
            path,
            ..redirect(None, None, None)
        }),
        ..prefix("/old")
    };
    let asked = Asked {
        port: Some(80),
        path: "/old/x",
        query: None,
        ..asked
    };
    assert_eq!(
        compile(moved).location(&asked).as_deref(),
        Some("http://echo/new/x")
    );
    assert_eq!(compile(prefix("/")).location(&asked), None);
}

#[test]
fn headers_are_removed_set_and_added_in_this_order() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let all = HeaderEdit {
        remove: vec![name("a"), name("b")],
        set: vec![(name("b"), value("set")), (name("c"), value("set"))],
        add: vec![(name("c"), value("added"))],
    };
    let backend = WeightedBackend {
        weight: 1,
        target: Target::Invalid,
        request: HeaderEdit {
            remove: vec![name("c")],
            ..HeaderEdit::default()
        },
        response: HeaderEdit::default(),
    };
    let rule = compile(Rule {
        request: all.clone(),
        response: all,
        ..prefix("/")
    });
    let mut request: HeaderMap = ["a", "b", "c"]
        .map(|header| (name(header), value("old")))
        .into_iter()
        .collect();
    let mut response = request.clone();
    rule.edit_request(Some(&backend), &mut request);
    assert_eq!(request, HeaderMap::from_iter([(name("b"), value("set"))]));
    rule.edit_response(Some(&backend), &mut response);
    let values: Vec<_> = response.get_all("c").iter().map(HeaderValue::as_bytes).collect();
    assert_eq!(
        (response.get("a"), values),
        (None, vec![b"set".as_slice(), b"added"])
    );
}

fn backends(weights: &[u32]) -> Rule {
    let backend = |&weight: &u32| WeightedBackend {
        weight,
        target: Target::Cluster(weight.to_string().into()),
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
    };
    Rule {
        action: Action::Forward(weights.iter().map(backend).collect()),
        ..prefix("/")
    }
}

#[test]
fn clusters_are_listed_once() {
    let table = table(vec![backends(&[2, 1]), backends(&[1, 3])]).expect("valid");
    assert_eq!(
        table.clusters().iter().map(|name| &**name).collect::<Vec<_>>(),
        ["1", "2", "3"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn backends_get_their_share(weights in proptest::collection::vec(0_u32..10, 0..6), seed in any::<u64>()) {
        const TIMES: u32 = 3000;
        let (rule, mut rng) = (compile(backends(&weights)), fastrand::Rng::with_seed(seed));
        let total: u32 = weights.iter().sum();
        let picked: Vec<u32> = (0..TIMES).filter_map(|_| rule.pick(&mut rng)).map(|backend| backend.weight).collect();
        prop_assert_eq!(picked.len(), if total == 0 { 0 } else { TIMES as usize });
        for weight in 0..10_u32 {
            let copies = weights.iter().filter(|&&other| other == weight).count() as f64;
            let share = if total == 0 { 0.0 } else { copies * f64::from(weight) / f64::from(total) };
            let expected = share * f64::from(TIMES);
            let count = picked.iter().filter(|&&other| other == weight).count() as f64;
            let allowed = 6.0 * (expected * (1.0 - share)).sqrt();
            prop_assert!((count - expected).abs() <= allowed, "{:?}: {} of {}", weights, count, expected);
        }
    }
}

// The oracle. Conditions are drawn over tiny alphabets, so that many match.

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        "[ab ]{0,2}".prop_map(ValueMatch::Exact),
        "[ab]{1,2}".prop_map(|text| ValueMatch::Regex(format!("{text}.*"))),
        Just(ValueMatch::Present),
    ]
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        "(/[ab]{1,2}){1,2}/?".prop_map(PathMatch::Exact),
        "(/[ab]){0,2}/?".prop_map(|path| PathMatch::Prefix(if path.is_empty() { "/".into() } else { path })),
        "[ab]".prop_map(|text| PathMatch::Regex(format!("/{text}/?.*"))),
    ]
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let header = (prop_oneof![Just("x"), Just("y")], value_match()).prop_map(|(name, value)| HeaderMatch {
        name: HeaderName::from_static(name),
        value,
    });
    let query = (prop_oneof![Just("p"), Just("q")], value_match()).prop_map(|(name, value)| QueryMatch {
        name: name.into(),
        value,
    });
    (
        path_match(),
        proptest::option::of(prop_oneof![Just(Method::GET), Just(Method::POST)]),
        proptest::collection::vec(header, 0..2),
        proptest::collection::vec(query, 0..2),
    )
        .prop_map(|(path, method, headers, query)| RouteMatch {
            path,
            method,
            headers,
            query,
        })
}

fn segments(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(str::to_owned)
        .collect()
}

fn value_matches(condition: &ValueMatch, value: &str) -> bool {
    match condition {
        ValueMatch::Exact(exact) => value == exact,
        ValueMatch::Regex(pattern) => value.starts_with(pattern.trim_end_matches(".*")),
        ValueMatch::Present => true,
    }
}

type Pairs = Vec<(String, String)>;

fn oracle(condition: &RouteMatch, method: &Method, path: &str, query: &Pairs, headers: &Pairs) -> bool {
    let path_matches = match &condition.path {
        PathMatch::Exact(exact) => path == exact,
        PathMatch::Prefix(prefix) => segments(path).starts_with(&segments(prefix)),
        PathMatch::Regex(pattern) => path.starts_with(pattern.trim_end_matches("/?.*")),
    };
    let header_matches = |header: &HeaderMatch| {
        let values: Vec<_> = headers
            .iter()
            .filter(|(name, _)| *name == header.name.as_str())
            .map(|(_, value)| value.clone())
            .collect();
        !values.is_empty() && value_matches(&header.value, &values.join(","))
    };
    let query_matches = |wanted: &QueryMatch| {
        let first = query.iter().find(|(name, _)| *name == wanted.name);
        first.is_some_and(|(_, value)| value_matches(&wanted.value, value))
    };
    path_matches
        && condition.method.as_ref().is_none_or(|wanted| wanted == method)
        && condition.headers.iter().all(header_matches)
        && condition.query.iter().all(query_matches)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn finds_what_the_oracle_finds(
        conditions in proptest::collection::vec(route_match(), 0..6),
        path in "(/[ab]{1,2}){0,3}/?",
        method in prop_oneof![Just(Method::GET), Just(Method::POST)],
        query in proptest::collection::vec(("[pq]", "[ab ]{0,3}"), 0..3),
        headers in proptest::collection::vec(("[xy]", "[ab]{0,3}"), 0..3),
    ) {
        let path = if path.is_empty() { "/".to_owned() } else { path };
        let rules = conditions.iter().map(|matches| Rule { matches: matches.clone(), ..prefix("/") }).collect();
        let table = table(rules).expect("valid");
        let mut map = HeaderMap::new();
        for (name, value) in &headers {
            map.append(HeaderName::from_str(name).expect("a name"), HeaderValue::from_str(value).expect("a value"));
        }
        let sent: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", value.replace(' ', "%20"))).collect();
        let sent = sent.join("&");
        let head = RequestHead { method: &method, path: &path, query: (!query.is_empty()).then_some(&*sent), headers: &map };
        let expected = conditions.iter().position(|condition| oracle(condition, &method, &path, &query, &headers));
        let found = table.find(&head).and_then(|found| table.rules().iter().position(|rule| std::ptr::eq(rule, found)));
        prop_assert_eq!(found, expected);
    }
}
