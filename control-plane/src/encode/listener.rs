//! Listeners: destinations by authority, a workload's own side, Envoy's one socket; and hints.

use weft_control_plane_core::dialect::Dialect;
use weft_control_plane_core::resource::{InboundPort, Listener, Name, Protocol};
use weft_xds_proto::envoy::config::listener::v3 as listener;
use weft_xds_proto::envoy::extensions::filters::http::router::v3::Router;
use weft_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use weft_xds_proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use weft_xds_proto::{pack_any, weft};

use super::{Context, extension, from_ads, socket_address};

/// Encodes one listener; `None` where the dialect has no use for it.
pub(super) fn encode(
    name: &str,
    value: &Listener,
    dialect: Dialect,
    context: &Context<'_>,
) -> Option<listener::Listener> {
    match (value, dialect) {
        (
            Listener::Outbound {
                protocol,
                routes,
                cluster,
            },
            Dialect::Weft,
        ) => Some(outbound(name, *protocol, routes.as_deref(), cluster.as_deref())),
        (
            Listener::Outbound {
                routes: Some(routes), ..
            },
            Dialect::Grpc,
        ) => Some(api_listener(name, routes)),
        (Listener::Inbound { ports, permissive }, Dialect::Weft) => Some(inbound(name, ports, *permissive)),
        (Listener::Wildcard { routes }, Dialect::Envoy) => {
            context.listen.map(|address| listener::Listener {
                address: Some(socket_address(address)),
                filter_chains: vec![chain(hcm_filter(name, routes))],
                traffic_direction: 2, // OUTBOUND
                ..named(name)
            })
        }
        _ => None,
    }
}

/// What peers of the same workload use.
pub(super) fn hints(name: &str, listeners: &[Name]) -> weft::Hints {
    weft::Hints {
        name: name.to_owned(),
        listeners: listeners.iter().map(ToString::to_string).collect(),
    }
}

/// How `protocol` is called on the wire.
pub(super) fn protocol(value: Protocol) -> weft::Protocol {
    match value {
        Protocol::Detect => weft::Protocol::Detect,
        Protocol::Http1 => weft::Protocol::Http1,
        Protocol::Http2 => weft::Protocol::Http2,
        Protocol::Grpc => weft::Protocol::Grpc,
        Protocol::Tcp => weft::Protocol::Tcp,
    }
}

fn named(name: &str) -> listener::Listener {
    listener::Listener {
        name: name.to_owned(),
        ..listener::Listener::default()
    }
}

/// For our proxy: an `api_listener` for requests, a TCP proxy chain for opaque bytes, or both where the protocol is
/// detected.
fn outbound(name: &str, speaks: Protocol, routes: Option<&str>, cluster: Option<&str>) -> listener::Listener {
    listener::Listener {
        metadata: Some(extension(weft::Outbound {
            protocol: protocol(speaks).into(),
        })),
        api_listener: routes.map(|routes| api(name, routes)),
        filter_chains: cluster
            .map(|cluster| chain(tcp_filter(name, cluster)))
            .into_iter()
            .collect(),
        ..named(name)
    }
}

fn inbound(name: &str, ports: &[InboundPort], permissive: bool) -> listener::Listener {
    let inbound = weft::Inbound {
        ports: ports.iter().map(inbound_port).collect(),
        undeclared: tls(permissive).into(),
    };
    listener::Listener {
        metadata: Some(extension(inbound)),
        ..named(name)
    }
}

fn inbound_port(value: &InboundPort) -> weft::InboundPort {
    weft::InboundPort {
        port: value.port.into(),
        protocol: protocol(value.protocol).into(),
        tls: tls(value.permissive).into(),
        service: value.service.as_deref().unwrap_or_default().to_owned(),
    }
}

fn tls(permissive: bool) -> weft::inbound_port::TlsMode {
    if permissive {
        weft::inbound_port::TlsMode::Permissive
    } else {
        weft::inbound_port::TlsMode::Strict
    }
}

fn api_listener(name: &str, routes: &str) -> listener::Listener {
    listener::Listener {
        api_listener: Some(api(name, routes)),
        ..named(name)
    }
}

fn api(name: &str, routes: &str) -> listener::ApiListener {
    listener::ApiListener {
        api_listener: Some(pack_any(manager(name, routes))),
    }
}

fn manager(name: &str, routes: &str) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        stat_prefix: name.to_owned(),
        http_filters: vec![hcm::HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(pack_any(
                Router::default(),
            ))),
            ..hcm::HttpFilter::default()
        }],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(from_ads()),
            route_config_name: routes.to_owned(),
        })),
        ..hcm::HttpConnectionManager::default()
    }
}

fn hcm_filter(name: &str, routes: &str) -> listener::Filter {
    let upgrade = |kind: &str| hcm::http_connection_manager::UpgradeConfig {
        upgrade_type: kind.to_owned(),
        ..hcm::http_connection_manager::UpgradeConfig::default()
    };
    filter(
        "envoy.filters.network.http_connection_manager",
        pack_any(hcm::HttpConnectionManager {
            upgrade_configs: vec![upgrade("websocket")],
            ..manager(name, routes)
        }),
    )
}

fn tcp_filter(name: &str, cluster: &str) -> listener::Filter {
    filter(
        "envoy.filters.network.tcp_proxy",
        pack_any(tcp_proxy::TcpProxy {
            stat_prefix: name.to_owned(),
            cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(
                cluster.to_owned(),
            )),
            ..tcp_proxy::TcpProxy::default()
        }),
    )
}

fn filter(name: &str, config: weft_xds_proto::google::protobuf::Any) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    }
}

fn chain(filter: listener::Filter) -> listener::FilterChain {
    listener::FilterChain {
        filters: vec![filter],
        ..listener::FilterChain::default()
    }
}
