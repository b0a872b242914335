//! What the proxy's core is given: clusters, route tables, request heads.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use weft_proxy_core::cluster::{ClusterEntry, ClusterState};
use weft_proxy_core::resource::{
    Action, Backoff, Balancer, Breaker, Cluster, Endpoint, Endpoints, HeaderEdit, HeaderMatch, Limits, Name,
    Outlier, PathMatch, Protocol, QueryMatch, Retry, RetryBudget, Rewrite, RouteConfig, RouteMatch, Rule,
    Target, ValueMatch, WeightedBackend,
};

/// The name of the cluster in these worlds.
pub const CLUSTER: &str = "user.shop.svc.cluster.local:80";

/// The `index`th endpoint; each has an address of its own.
pub fn endpoint(index: usize) -> Endpoint {
    let bits = 0x0a00_0000 + u32::try_from(index).unwrap_or(u32::MAX);
    Endpoint {
        address: SocketAddr::from((Ipv4Addr::from_bits(bits), 4143)),
        weight: 1,
        ready: true,
        zone: "zone-a".into(),
        identity: Some("spiffe://cluster.local/ns/shop/sa/user".into()),
        workload: format!("shop/user-{index}").into(),
    }
}

/// `count` of them.
pub fn endpoints(count: usize) -> Endpoints {
    Endpoints {
        cluster: CLUSTER.into(),
        endpoints: (0..count).map(endpoint).collect(),
    }
}

/// A cluster with everything on that a request could meet: ejection, both breakers, limits, a budget.
pub fn cluster(balancer: Balancer) -> Cluster {
    let breaker = Breaker {
        consecutive_failures: 5,
        open_for: Duration::from_secs(5),
        half_open_probes: 3,
    };
    Cluster {
        name: CLUSTER.into(),
        protocol: Protocol::Http1,
        balancer,
        prefer_zone: true,
        slow_start: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(1),
        limits: Limits::default(),
        outlier: Some(Outlier {
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_mins(5),
            max_ejection_percent: 50,
        }),
        endpoint_breaker: Some(breaker),
        service_breaker: Some(breaker),
        default_retry: Retry {
            attempts: 2,
            statuses: vec![],
            grpc_codes: vec![],
            backoff: Backoff::default(),
        },
        retry_budget: RetryBudget {
            percent: 20,
            floor: 10,
        },
    }
}

/// One worker's view of a cluster of `count` endpoints.
pub fn cluster_state(balancer: Balancer, count: usize) -> ClusterState {
    let entry = ClusterEntry::new(Arc::new(cluster(balancer)), Arc::new(endpoints(count)), None);
    ClusterState::new(Arc::new(entry), "zone-a".into())
}

/// A table of `count` rules of every kind; the last one is the only one that matches everything.
pub fn routes(count: usize) -> RouteConfig {
    let mut rules: Vec<Rule> = (1..count).map(special_rule).collect();
    rules.push(rule(any(PathMatch::Prefix("/".into()))));
    RouteConfig {
        name: CLUSTER.into(),
        rules,
    }
}

fn special_rule(index: usize) -> Rule {
    let mut matches = any(match index % 5 {
        0 => PathMatch::Exact(format!("/v1/users/{index}/orders")),
        1 => PathMatch::Regex(format!("/v[0-9]+/items-{index}/.*")),
        _ => PathMatch::Prefix(format!("/v{index}/users")),
    });
    let value = ValueMatch::Exact(format!("value-{index}"));
    match index % 4 {
        0 => matches.headers.push(HeaderMatch {
            name: header::HeaderName::from_static("x-canary"),
            value,
        }),
        1 => matches.query.push(QueryMatch {
            name: "version".into(),
            value,
        }),
        2 => matches.method = Some(Method::POST),
        _ => {}
    }
    rule(matches)
}

fn any(path: PathMatch) -> RouteMatch {
    RouteMatch {
        path,
        method: None,
        headers: vec![],
        query: vec![],
    }
}

fn rule(matches: RouteMatch) -> Rule {
    let backend = |name: &str, weight| WeightedBackend {
        weight,
        target: Target::Cluster(Name::from(name)),
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
    };
    Rule {
        name: "HTTPRoute/shop/user/0".into(),
        matches,
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
        rewrite: Rewrite::default(),
        action: Action::Forward(vec![
            backend(CLUSTER, 90),
            backend("user-v2.shop.svc.cluster.local:80", 10),
        ]),
        timeout: Some(Duration::from_secs(15)),
        attempt_timeout: None,
        retry: None,
    }
}

/// The headers of an ordinary request: twelve of them.
pub fn headers() -> HeaderMap {
    [
        ("host", "user.shop"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
        ("accept", "application/json, text/plain, */*"),
        ("accept-encoding", "gzip, deflate, br"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("content-type", "application/json"),
        ("content-length", "128"),
        ("cookie", "session=4f1c2a90c8b74f27; theme=dark"),
        ("authorization", "Bearer 2YotnFZFEjr1zCsicMWpAA"),
        ("x-request-id", "7b1e6f0a-2d8c-4f7a-9f25-0f7a1d3f9c11"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("connection", "keep-alive"),
    ]
    .into_iter()
    .map(|(name, value)| {
        (
            header::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    })
    .collect()
}
