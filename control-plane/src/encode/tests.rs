//! A change of the encoding must raise [`ENCODING_REVISION`]; and what foreign clients are known to refuse.

use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use weft_control_plane_core::resource as value;
use weft_xds_proto::envoy::config::{cluster::v3 as cluster, listener::v3 as listener, route::v3 as route};

use super::*;

/// The revision, and the fingerprint of [`samples`] in all dialects under it.
const GOLDEN: (u32, &str) = (
    2,
    "f2babdbe9f940b3cba555cd1aae744e13876f902d2f890127c430f3f067906e3",
);

const CONTEXT: Context<'static> = Context {
    trust_domain: "cluster.local",
    listen: Some(SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        15001,
    )),
};

fn cluster_value() -> value::Cluster {
    value::Cluster {
        protocol: value::Protocol::Http1,
        balancer: value::Balancer::PeakEwma,
        prefer_zone: true,
        slow_start: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(1),
        max_connections: 1,
        max_pending: 2,
        max_requests: 3,
        outlier: Some(value::Outlier {
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_mins(5),
            max_ejection_percent: 50,
        }),
        endpoint_breaker: Some(value::Breaker {
            consecutive_failures: 4,
            open_for: Duration::from_millis(1500),
            half_open_probes: 2,
        }),
        service_breaker: None,
        default_retry: retry(),
        retry_budget_percent: 20,
        retry_budget_floor: 3,
        identities: vec!["spiffe://cluster.local/ns/shop/sa/user".into()],
    }
}

fn retry() -> value::Retry {
    value::Retry {
        attempts: 2,
        statuses: vec![503],
        grpc_codes: vec![14],
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
    }
}

fn rule(action: value::Action) -> value::Rule {
    value::Rule {
        name: "HTTPRoute/shop/user/0".into(),
        matches: value::RouteMatch {
            path: value::PathMatch::Prefix("/a.b".to_owned()),
            method: Some("GET".to_owned()),
            headers: vec![(
                "x-version".to_owned(),
                value::ValueMatch::Regex("v[12]".to_owned()),
            )],
            query: vec![("q".to_owned(), value::ValueMatch::Exact("1".to_owned()))],
            grpc: true,
        },
        request: value::HeaderEdit {
            remove: vec!["x-gone".to_owned()],
            set: vec![("x-set".to_owned(), "1".to_owned())],
            add: vec![("x-add".to_owned(), "2".to_owned())],
        },
        response: value::HeaderEdit::default(),
        rewrite: value::Rewrite {
            host: Some("other".to_owned()),
            path: Some(value::PathRewrite::Prefix("/".to_owned())),
        },
        action,
        timeout: Some(Duration::from_secs(3)),
        attempt_timeout: Some(Duration::from_secs(1)),
        retry: Some(retry()),
    }
}

fn forward(weights: &[u32]) -> value::Action {
    value::Action::Forward(
        weights
            .iter()
            .map(|weight| value::Backend {
                weight: *weight,
                cluster: Some("user.shop.svc.cluster.local:80".into()),
                request: value::HeaderEdit::default(),
                response: value::HeaderEdit::default(),
            })
            .collect(),
    )
}

fn table(rules: Vec<value::Rule>) -> Resource {
    let host = value::VirtualHost {
        name: "user".into(),
        domains: vec!["*".into()],
        rules,
    };
    Resource::Route(value::RouteTable { hosts: vec![host] })
}

fn outbound(protocol: value::Protocol) -> Resource {
    Resource::Listener(value::Listener::Outbound {
        protocol,
        routes: Some("routes".into()),
        cluster: Some("cluster".into()),
    })
}

fn samples() -> Vec<Resource> {
    let endpoint = value::Endpoint {
        address: "10.0.0.1:8080".parse().expect("an address"),
        weight: 3,
        ready: false,
        zone: "a".into(),
        identity: Some("spiffe://cluster.local/ns/shop/sa/user".into()),
        workload: "shop/user-0".into(),
    };
    let inbound = value::InboundPort {
        port: 8080,
        protocol: value::Protocol::Grpc,
        permissive: true,
        service: Some("user.shop.svc.cluster.local:80".into()),
    };
    let redirect = value::Action::Redirect {
        scheme: Some("https".to_owned()),
        host: None,
        port: Some(8443),
        path: Some(value::PathRewrite::Full("/x".to_owned())),
        status: 308,
    };
    vec![
        Resource::Cluster(cluster_value()),
        Resource::Endpoints(value::Endpoints {
            endpoints: vec![endpoint],
        }),
        outbound(value::Protocol::Detect),
        Resource::Listener(value::Listener::Inbound {
            ports: vec![inbound],
            permissive: true,
        }),
        Resource::Listener(value::Listener::Wildcard {
            routes: "outbound".into(),
        }),
        table(vec![
            rule(forward(&[1, 2])),
            rule(redirect),
            rule(value::Action::Respond(500)),
        ]),
        Resource::TrustBundle(vec![[1, 2, 3].as_slice().into()]),
        Resource::Hints(vec!["user.shop.svc.cluster.local:80".into()]),
    ]
}

#[test]
fn a_changed_encoding_raises_the_revision() {
    let mut hasher = Sha256::new();
    for dialect in [Dialect::Weft, Dialect::Grpc, Dialect::Envoy] {
        for sample in samples() {
            let encoded = encode("name", &sample, dialect, &CONTEXT);
            hasher.update(encoded.map(|any| any.encode_to_vec()).unwrap_or_default());
        }
    }
    let fingerprint = format!("{:x}", hasher.finalize());
    assert_eq!(
        (ENCODING_REVISION, fingerprint.as_str()),
        GOLDEN,
        "the encoding has changed: raise ENCODING_REVISION, then write both here"
    );
}

fn decoded<M: Message + Default>(resource: &Resource, dialect: Dialect) -> Option<M> {
    encode("name", resource, dialect, &CONTEXT)
        .map(|any| M::decode(any.value.as_slice()).expect("what was encoded decodes"))
}

#[test]
fn each_dialect_has_its_own_listeners() {
    use value::Protocol::{Http1, Tcp};
    let inbound = Resource::Listener(value::Listener::Inbound {
        ports: Vec::new(),
        permissive: false,
    });
    let wildcard = Resource::Listener(value::Listener::Wildcard {
        routes: "outbound".into(),
    });
    assert!(encode("name", &outbound(Http1), Dialect::Envoy, &CONTEXT).is_none());
    assert!(encode("name", &inbound, Dialect::Grpc, &CONTEXT).is_none());
    assert!(encode("name", &inbound, Dialect::Envoy, &CONTEXT).is_none());
    assert!(encode("name", &wildcard, Dialect::Weft, &CONTEXT).is_none());
    assert!(
        encode(
            "name",
            &wildcard,
            Dialect::Envoy,
            &Context {
                listen: None,
                ..CONTEXT
            }
        )
        .is_none()
    );
    let opaque = Resource::Listener(value::Listener::Outbound {
        protocol: Tcp,
        routes: None,
        cluster: Some("cluster".into()),
    });
    assert!(
        encode("name", &opaque, Dialect::Grpc, &CONTEXT).is_none(),
        "gRPC has no opaque TCP"
    );
    let grpc: listener::Listener = decoded(&outbound(Http1), Dialect::Grpc).expect("has an api_listener");
    assert!(grpc.metadata.is_none() && grpc.filter_chains.is_empty());
}

#[test]
fn grpc_gets_only_what_it_accepts() {
    let routes: route::RouteConfiguration = decoded(
        &table(vec![rule(forward(&[1])), rule(forward(&[0, 0]))]),
        Dialect::Grpc,
    )
    .expect("a table");
    let [first, zero] = routes.virtual_hosts[0].routes.as_slice() else {
        panic!("two rules")
    };
    let path = first
        .r#match
        .as_ref()
        .and_then(|matches| matches.path_specifier.clone());
    let Some(route::route_match::PathSpecifier::SafeRegex(pattern)) = path else {
        panic!("gRPC knows no path_separated_prefix: {path:?}")
    };
    assert_eq!(pattern.regex, r"\/a\.b(/.*)?");
    assert!(
        matches!(zero.action, Some(route::route::Action::DirectResponse(_))),
        "weights that add up to 0 are NACKed"
    );
    let mut never = rule(forward(&[1]));
    never.retry = Some(value::Retry {
        attempts: 0,
        ..retry()
    });
    let routes: route::RouteConfiguration = decoded(&table(vec![never]), Dialect::Grpc).expect("a table");
    let Some(route::route::Action::Route(action)) = &routes.virtual_hosts[0].routes[0].action else {
        panic!("forwards")
    };
    assert!(action.retry_policy.is_none(), "num_retries 0 is NACKed");
    let cluster: cluster::Cluster =
        decoded(&Resource::Cluster(cluster_value()), Dialect::Grpc).expect("a cluster");
    assert_eq!(cluster.lb_policy, cluster::cluster::LbPolicy::RoundRobin as i32);
    assert!(cluster.transport_socket.is_some() && cluster.transport_socket_matches.is_empty());
}

#[test]
fn a_cluster_without_identities_has_no_mesh_tls() {
    let plain = Resource::Cluster(value::Cluster {
        identities: Vec::new(),
        ..cluster_value()
    });
    let grpc: cluster::Cluster = decoded(&plain, Dialect::Grpc).expect("a cluster");
    let envoy: cluster::Cluster = decoded(&plain, Dialect::Envoy).expect("a cluster");
    assert!(grpc.transport_socket.is_none() && envoy.transport_socket_matches.is_empty());
    let meshed = Resource::Cluster(cluster_value());
    let envoy: cluster::Cluster = decoded(&meshed, Dialect::Envoy).expect("a cluster");
    assert_eq!(
        envoy.transport_socket_matches.len(),
        2,
        "mesh TLS by metadata, plaintext for the rest"
    );
    assert!(
        envoy.metadata.is_none(),
        "our extension would be NACKed as unknown"
    );
}
