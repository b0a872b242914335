//! Random values of the control plane's resources, as translation can produce them.

use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use weft_control_plane_core::resource::{
    Action, Backend, Balancer, Breaker, Cluster, Endpoint, Endpoints, HeaderEdit, InboundPort, Name, Outlier,
    PathMatch, PathRewrite, Protocol, Retry, Rewrite, RouteMatch, Rule, ValueMatch,
};

fn name() -> impl Strategy<Value = Name> {
    "[a-z]{1,8}\\.shop\\.svc\\.cluster\\.local:80".prop_map(Name::from)
}

fn duration() -> impl Strategy<Value = Duration> {
    (1u64..100_000).prop_map(Duration::from_millis)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Detect),
        Just(Protocol::Http1),
        Just(Protocol::Http2),
        Just(Protocol::Grpc),
        Just(Protocol::Tcp)
    ]
}

fn balancer() -> impl Strategy<Value = Balancer> {
    prop_oneof![
        Just(Balancer::PeakEwma),
        Just(Balancer::RoundRobin),
        Just(Balancer::LeastRequest),
        Just(Balancer::Random),
        option::of("[a-z-]{1,10}").prop_map(Balancer::RingHash)
    ]
}

fn breaker() -> impl Strategy<Value = Breaker> {
    (1u32..9, duration(), 1u32..9).prop_map(|(consecutive_failures, open_for, half_open_probes)| Breaker {
        consecutive_failures,
        open_for,
        half_open_probes,
    })
}

fn outlier() -> impl Strategy<Value = Outlier> {
    (1u32..9, duration(), duration(), 0u8..=100).prop_map(|(consecutive_failures, base, more, percent)| {
        Outlier {
            consecutive_failures,
            base_ejection: base,
            max_ejection: base + more,
            max_ejection_percent: percent,
        }
    })
}

fn retry() -> impl Strategy<Value = Retry> {
    let codes = proptest::sample::subsequence(vec![1u32, 4, 8, 13, 14], 0..=5);
    (0u32..5, vec(400u16..600, 0..4), codes, duration(), duration()).prop_map(
        |(attempts, statuses, grpc_codes, backoff_base, backoff_max)| Retry {
            attempts,
            statuses,
            grpc_codes,
            backoff_base,
            backoff_max,
        },
    )
}

/// Any cluster.
pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    let limits = (any::<u32>(), any::<u32>(), any::<u32>());
    let guards = (
        option::of(outlier()),
        option::of(breaker()),
        option::of(breaker()),
    );
    let retries = (retry(), 0u8..=100, 0u32..100);
    (
        protocol(),
        balancer(),
        any::<bool>(),
        duration(),
        duration(),
        limits,
        guards,
        retries,
    )
        .prop_map(
            |(protocol, balancer, prefer_zone, slow_start, connect_timeout, limits, guards, retries)| {
                Cluster {
                    protocol,
                    balancer,
                    prefer_zone,
                    slow_start,
                    connect_timeout,
                    max_connections: limits.0,
                    max_pending: limits.1,
                    max_requests: limits.2,
                    outlier: guards.0,
                    endpoint_breaker: guards.1,
                    service_breaker: guards.2,
                    default_retry: retries.0,
                    retry_budget_percent: retries.1,
                    retry_budget_floor: retries.2,
                    identities: Vec::new(),
                }
            },
        )
}

/// Endpoints, no address twice.
pub(crate) fn endpoints() -> impl Strategy<Value = Endpoints> {
    let zone = prop_oneof![Just(""), Just("a"), Just("b")];
    let identity = option::of("[a-z]{1,5}".prop_map(|sa| format!("spiffe://cluster.local/ns/shop/sa/{sa}")));
    let content = (1u32..1000, any::<bool>(), zone, identity);
    btree_map((any::<bool>(), any::<u8>(), 1u16..), content, 0..12).prop_map(|endpoints| Endpoints {
        endpoints: endpoints
            .into_iter()
            .map(|((v6, host, port), (weight, ready, zone, identity))| Endpoint {
                address: if v6 {
                    (
                        std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()),
                        port,
                    )
                        .into()
                } else {
                    (std::net::Ipv4Addr::new(10, 0, 0, host), port).into()
                },
                weight,
                ready,
                zone: zone.into(),
                identity: identity.map(Name::from),
                workload: "shop/user-0".into(),
            })
            .collect(),
    })
}

/// Inbound ports, none twice.
pub(crate) fn inbound_ports() -> impl Strategy<Value = Vec<InboundPort>> {
    btree_map(1u16.., (protocol(), any::<bool>(), option::of(name())), 0..6).prop_map(|ports| {
        ports
            .into_iter()
            .map(|(port, (protocol, permissive, service))| InboundPort {
                port,
                protocol,
                permissive,
                service,
            })
            .collect()
    })
}

fn path() -> impl Strategy<Value = String> {
    "(/[a-z0-9._~-]{1,6}){1,3}"
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        "[ -~]{0,10}".prop_map(ValueMatch::Exact),
        "[a-z]{1,4}".prop_map(ValueMatch::Regex)
    ]
}

fn header_edit() -> impl Strategy<Value = HeaderEdit> {
    let pair = || vec(("x-[a-z]{1,5}", "[!-~]{1,8}"), 0..3);
    (vec("x-[a-z]{1,5}", 0..3), pair(), pair()).prop_map(|(remove, set, add)| HeaderEdit { remove, set, add })
}

fn path_rewrite() -> impl Strategy<Value = PathRewrite> {
    let path = prop_oneof![path(), Just("/".to_owned()), Just("/back\\slash\\1".to_owned())];
    (any::<bool>(), path).prop_map(|(full, path)| {
        if full {
            PathRewrite::Full(path)
        } else {
            PathRewrite::Prefix(path)
        }
    })
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        path().prop_map(PathMatch::Exact),
        path().prop_map(PathMatch::Prefix),
        Just(PathMatch::Prefix("/".to_owned())),
        Just(PathMatch::Regex("/v[0-9]+/.*".to_owned())),
    ];
    let method = option::of(prop_oneof![Just("GET".to_owned()), Just("POST".to_owned())]);
    let conditions = || vec(("x-[a-z]{1,5}", value_match()), 0..3);
    (path, method, conditions(), conditions(), any::<bool>()).prop_map(
        |(path, method, headers, query, grpc)| RouteMatch {
            path,
            method,
            headers,
            query,
            grpc,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let backend = (0u32..1_000_000, option::of(name()), header_edit(), header_edit()).prop_map(
        |(weight, cluster, request, response)| Backend {
            weight,
            cluster,
            request,
            response,
        },
    );
    let redirect = (
        option::of(prop_oneof![Just("http".to_owned()), Just("https".to_owned())]),
        option::of("[a-z]{1,6}\\.example"),
        option::of(1u16..),
        option::of(path_rewrite()),
        proptest::sample::select(vec![301u16, 302, 303, 307, 308]),
    )
        .prop_map(|(scheme, host, port, path, status)| Action::Redirect {
            scheme,
            host,
            port,
            path,
            status,
        });
    prop_oneof![
        3 => vec(backend, 0..4).prop_map(Action::Forward),
        1 => redirect,
        1 => (200u16..600).prop_map(Action::Respond),
    ]
}

/// Any rule.
pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    let rewrite = (option::of("[a-z]{1,6}"), option::of(path_rewrite()));
    let times = (
        option::of(duration()),
        option::of(duration()),
        option::of(retry()),
    );
    (
        route_match(),
        header_edit(),
        header_edit(),
        rewrite,
        action(),
        times,
    )
        .prop_map(
            |(matches, request, response, (host, path), action, (timeout, attempt_timeout, retry))| {
                let fit = |path| fitting(&matches.path, path);
                let action = match action {
                    Action::Redirect {
                        scheme,
                        host,
                        port,
                        path,
                        status,
                    } => Action::Redirect {
                        scheme,
                        host,
                        port,
                        path: path.map(fit),
                        status,
                    },
                    other => other,
                };
                Rule {
                    name: "HTTPRoute/shop/user/0".into(),
                    rewrite: Rewrite {
                        host,
                        path: path.map(fit),
                    },
                    matches,
                    request,
                    response,
                    action,
                    timeout,
                    attempt_timeout,
                    retry,
                }
            },
        )
}

/// A prefix can be replaced only where one was matched.
fn fitting(matched: &PathMatch, rewrite: PathRewrite) -> PathRewrite {
    match (matched, rewrite) {
        (PathMatch::Exact(_) | PathMatch::Regex(_), PathRewrite::Prefix(path)) => PathRewrite::Full(path),
        (_, rewrite) => rewrite,
    }
}
