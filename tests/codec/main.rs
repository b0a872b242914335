//! What the control plane encodes, the proxy decodes to the same: the two cores share no type, so the one thing that
//! keeps them honest is this round trip, over values at random. The expected value is built field by field, by hand.

mod strategy;

use proptest::prelude::*;
use weft_control_plane::encode::{Context, encode};
use weft_control_plane_core::dialect::Dialect;
use weft_control_plane_core::resource as sent;
use weft_proxy::xds::decode::{DecodeError, decode};
use weft_proxy_core::resource as got;

const NAME: &str = "user.shop.svc.cluster.local:80";
const CONTEXT: Context<'static> = Context {
    trust_domain: "cluster.local",
    listen: None,
};

fn travel(name: &str, resource: &sent::Resource) -> Result<got::Resource, DecodeError> {
    let any = encode(name, resource, Dialect::Weft, &CONTEXT).expect("our own dialect has it");
    decode(name, &any)
}

fn protocol(value: sent::Protocol) -> got::Protocol {
    match value {
        sent::Protocol::Detect => got::Protocol::Detect,
        sent::Protocol::Http1 => got::Protocol::Http1,
        sent::Protocol::Http2 => got::Protocol::Http2,
        sent::Protocol::Grpc => got::Protocol::Grpc,
        sent::Protocol::Tcp => got::Protocol::Tcp,
    }
}

fn breaker(value: &sent::Breaker) -> got::Breaker {
    got::Breaker {
        consecutive_failures: value.consecutive_failures,
        open_for: value.open_for,
        half_open_probes: value.half_open_probes,
    }
}

fn cluster(value: &sent::Cluster) -> got::Cluster {
    let retry = &value.default_retry;
    got::Cluster {
        name: NAME.into(),
        protocol: protocol(value.protocol),
        balancer: match &value.balancer {
            sent::Balancer::PeakEwma => got::Balancer::PeakEwma,
            sent::Balancer::RoundRobin => got::Balancer::RoundRobin,
            sent::Balancer::LeastRequest => got::Balancer::LeastRequest,
            sent::Balancer::Random => got::Balancer::Random,
            sent::Balancer::RingHash(None) => got::Balancer::RingHash(got::HashKey::SourceAddress),
            sent::Balancer::RingHash(Some(name)) => {
                got::Balancer::RingHash(got::HashKey::Header(name.parse().expect("a header name")))
            }
        },
        prefer_zone: value.prefer_zone,
        slow_start: value.slow_start,
        connect_timeout: value.connect_timeout,
        limits: got::Limits {
            connections: value.max_connections,
            pending: value.max_pending,
            requests: value.max_requests,
        },
        outlier: value.outlier.as_ref().map(|outlier| got::Outlier {
            consecutive_failures: outlier.consecutive_failures,
            base_ejection: outlier.base_ejection,
            max_ejection: outlier.max_ejection,
            max_ejection_percent: outlier.max_ejection_percent,
        }),
        endpoint_breaker: value.endpoint_breaker.as_ref().map(breaker),
        service_breaker: value.service_breaker.as_ref().map(breaker),
        default_retry: got::Retry {
            attempts: retry.attempts,
            statuses: Vec::new(),
            grpc_codes: Vec::new(),
            backoff: got::Backoff {
                base: retry.backoff_base,
                max: retry.backoff_max,
            },
        },
        retry_budget: got::RetryBudget {
            percent: value.retry_budget_percent,
            floor: value.retry_budget_floor,
        },
    }
}

fn endpoint(value: &sent::Endpoint) -> got::Endpoint {
    got::Endpoint {
        address: value.address,
        weight: value.weight,
        ready: value.ready,
        zone: value.zone.clone(),
        identity: value.identity.clone(),
        workload: value.workload.clone(),
    }
}

fn value_match(value: &sent::ValueMatch) -> got::ValueMatch {
    match value {
        sent::ValueMatch::Exact(text) => got::ValueMatch::Exact(text.clone()),
        sent::ValueMatch::Regex(pattern) => got::ValueMatch::Regex(pattern.clone()),
    }
}

fn route_match(value: &sent::RouteMatch) -> got::RouteMatch {
    let mut headers: Vec<got::HeaderMatch> = value
        .headers
        .iter()
        .map(|(name, value)| got::HeaderMatch {
            name: name.parse().expect("a header name"),
            value: value_match(value),
        })
        .collect();
    if value.grpc {
        headers.push(got::HeaderMatch {
            name: http::header::CONTENT_TYPE,
            value: got::ValueMatch::Regex("application/grpc([+;].*)?".to_owned()),
        });
    }
    got::RouteMatch {
        path: match &value.path {
            sent::PathMatch::Exact(path) => got::PathMatch::Exact(path.clone()),
            sent::PathMatch::Prefix(path) => got::PathMatch::Prefix(path.clone()),
            sent::PathMatch::Regex(pattern) => got::PathMatch::Regex(pattern.clone()),
        },
        method: value
            .method
            .as_ref()
            .map(|method| method.parse().expect("a method")),
        headers,
        query: value
            .query
            .iter()
            .map(|(name, value)| got::QueryMatch {
                name: name.clone(),
                value: value_match(value),
            })
            .collect(),
    }
}

fn header_edit(value: &sent::HeaderEdit) -> got::HeaderEdit {
    let pair = |(name, value): &(String, String)| {
        (
            name.parse().expect("a header name"),
            value.parse().expect("a header value"),
        )
    };
    got::HeaderEdit {
        remove: value
            .remove
            .iter()
            .map(|name| name.parse().expect("a header name"))
            .collect(),
        set: value.set.iter().map(pair).collect(),
        add: value.add.iter().map(pair).collect(),
    }
}

fn path_rewrite(value: &sent::PathRewrite) -> got::PathRewrite {
    match value {
        sent::PathRewrite::Full(path) => got::PathRewrite::Full(path.clone()),
        sent::PathRewrite::Prefix(path) => got::PathRewrite::Prefix(path.clone()),
    }
}

fn action(value: &sent::Action) -> got::Action {
    let status = |code: u16| http::StatusCode::from_u16(code).expect("a status");
    match value {
        sent::Action::Respond(code) => got::Action::Respond(status(*code)),
        sent::Action::Redirect {
            scheme,
            host,
            port,
            path,
            status: code,
        } => got::Action::Redirect(got::Redirect {
            scheme: scheme.clone(),
            host: host.clone(),
            port: *port,
            path: path.as_ref().map(path_rewrite),
            status: status(*code),
        }),
        sent::Action::Forward(backends) => got::Action::Forward(
            backends
                .iter()
                .map(|backend| got::WeightedBackend {
                    weight: backend.weight,
                    target: backend
                        .cluster
                        .clone()
                        .map_or(got::Target::Invalid, got::Target::Cluster),
                    request: header_edit(&backend.request),
                    response: header_edit(&backend.response),
                })
                .collect(),
        ),
    }
}

/// Only a rule that forwards has rewrites, timeouts and retries.
fn rule(value: &sent::Rule) -> got::Rule {
    let forwards = matches!(value.action, sent::Action::Forward(_));
    let rewrite = got::Rewrite {
        host: value.rewrite.host.clone(),
        path: value.rewrite.path.as_ref().map(path_rewrite),
    };
    let retry = value.retry.as_ref().map(|retry| got::Retry {
        attempts: retry.attempts,
        statuses: retry
            .statuses
            .iter()
            .map(|code| http::StatusCode::from_u16(*code).expect("a status"))
            .collect(),
        grpc_codes: retry.grpc_codes.clone(),
        backoff: got::Backoff {
            base: retry.backoff_base,
            max: retry.backoff_max,
        },
    });
    got::Rule {
        name: value.name.clone(),
        matches: route_match(&value.matches),
        request: header_edit(&value.request),
        response: header_edit(&value.response),
        rewrite: if forwards {
            rewrite
        } else {
            got::Rewrite::default()
        },
        action: action(&value.action),
        timeout: value.timeout.filter(|_| forwards),
        attempt_timeout: value.attempt_timeout.filter(|_| forwards),
        retry: retry.filter(|_| forwards),
    }
}

proptest! {
    #[test]
    fn clusters_travel(value in strategy::cluster()) {
        let expected = got::Resource::Cluster(cluster(&value));
        prop_assert_eq!(travel(NAME, &sent::Resource::Cluster(value)), Ok(expected));
    }

    #[test]
    fn endpoints_travel(value in strategy::endpoints()) {
        let mut expected: Vec<_> = value.endpoints.iter().map(endpoint).collect();
        let got = travel(NAME, &sent::Resource::Endpoints(value));
        let Ok(got::Resource::Endpoints(mut got)) = got else { panic!("{got:?}") };
        // Grouped by zone on the way.
        got.endpoints.sort_by_key(|endpoint| endpoint.address);
        expected.sort_by_key(|endpoint| endpoint.address);
        prop_assert_eq!(got.cluster.as_ref(), NAME);
        prop_assert_eq!(got.endpoints, expected);
    }

    #[test]
    fn routes_travel(rules in proptest::collection::vec(strategy::rule(), 0..6)) {
        let expected = got::RouteConfig { name: NAME.into(), rules: rules.iter().map(rule).collect() };
        let host = sent::VirtualHost { name: NAME.into(), domains: vec!["*".into()], rules };
        let table = sent::Resource::Route(sent::RouteTable { hosts: vec![host] });
        prop_assert_eq!(travel(NAME, &table), Ok(got::Resource::Routes(expected)));
    }

    #[test]
    fn inbound_listeners_travel(ports in strategy::inbound_ports(), permissive: bool) {
        let expected = ports.iter().map(|port| {
            let tls = if port.permissive { got::TlsMode::Permissive } else { got::TlsMode::Strict };
            let value = got::InboundPort {
                protocol: protocol(port.protocol), tls, service: port.service.clone(),
            };
            (port.port, value)
        });
        let undeclared = if permissive { got::TlsMode::Permissive } else { got::TlsMode::Strict };
        let body = got::ListenerBody::Inbound(got::Inbound { ports: expected.collect(), undeclared });
        let expected = got::Resource::Listener(got::Listener { name: "inbound/shop/user-0".into(), body });
        let value = sent::Resource::Listener(sent::Listener::Inbound { ports, permissive });
        prop_assert_eq!(travel("inbound/shop/user-0", &value), Ok(expected));
    }

    /// A decoder refuses; it neither panics nor accepts what it can't read.
    #[test]
    fn arbitrary_bytes_are_refused_or_decoded(kind in 0usize..6, bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        use weft_xds_proto::{google::protobuf::Any, types};
        let kinds = [
            types::CLUSTER, types::ENDPOINTS, types::LISTENER, types::ROUTE, types::SECRET, types::HINTS,
        ];
        let _ = decode(NAME, &Any { type_url: kinds[kind].to_owned(), value: bytes });
    }
}

#[test]
fn outbound_listeners_travel() {
    for speaks in [
        sent::Protocol::Http1,
        sent::Protocol::Grpc,
        sent::Protocol::Detect,
        sent::Protocol::Tcp,
    ] {
        let opaque = matches!(speaks, sent::Protocol::Tcp);
        let routes = (!opaque).then(|| NAME.into());
        let cluster = matches!(speaks, sent::Protocol::Tcp | sent::Protocol::Detect).then(|| NAME.into());
        let value = sent::Listener::Outbound {
            protocol: speaks,
            routes: routes.clone(),
            cluster: cluster.clone(),
        };
        let body = got::ListenerBody::Outbound {
            protocol: protocol(speaks),
            routes,
            cluster,
        };
        let expected = got::Resource::Listener(got::Listener {
            name: NAME.into(),
            body,
        });
        assert_eq!(travel(NAME, &sent::Resource::Listener(value)), Ok(expected));
    }
}

#[test]
fn trust_bundles_and_hints_travel() {
    let roots: Vec<std::sync::Arc<[u8]>> = vec![[1, 2, 3].as_slice().into(), [4].as_slice().into()];
    let name = "spiffe://cluster.local";
    let expected = got::TrustBundle {
        name: name.into(),
        roots: roots.clone(),
    };
    assert_eq!(
        travel(name, &sent::Resource::TrustBundle(roots)),
        Ok(got::Resource::Trust(expected))
    );
    let hints = got::Hints {
        name: "hints/shop/user-0".into(),
        listeners: vec![NAME.into()],
    };
    assert_eq!(
        travel("hints/shop/user-0", &sent::Resource::Hints(vec![NAME.into()])),
        Ok(got::Resource::Hints(hints))
    );
}

#[test]
fn an_empty_bundle_is_refused() {
    let got = travel("spiffe://cluster.local", &sent::Resource::TrustBundle(Vec::new()));
    assert!(matches!(got, Err(DecodeError::Invalid { .. })), "{got:?}");
}

#[test]
fn a_resource_under_another_name_is_refused() {
    let value = sent::Resource::Hints(Vec::new());
    let any = encode("hints/a/b", &value, Dialect::Weft, &CONTEXT).expect("encodes");
    assert!(matches!(
        decode("hints/c/d", &any),
        Err(DecodeError::NameMismatch { .. })
    ));
}
