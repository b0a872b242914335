//! `Listener` of Envoy -> [`Listener`] of the core.

use std::collections::BTreeMap;

use weft_proxy_core::resource::{Inbound, InboundPort, Listener, ListenerBody, Name, Protocol, TlsMode};
use weft_xds_proto::envoy::config::listener::v3 as listener;
use weft_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use weft_xds_proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use weft_xds_proto::google::protobuf;
use weft_xds_proto::{names, weft};

use super::{DecodeError, extension, invalid, message, port_number, protocol};

/// Decodes one listener: by its name, this workload's own side or a destination.
pub(super) fn decode(value: &listener::Listener) -> Result<Listener, DecodeError> {
    let body = if value.name.starts_with(names::INBOUND_PREFIX) {
        ListenerBody::Inbound(inbound(value)?)
    } else {
        outbound(value)?
    };
    Ok(Listener {
        name: value.name.as_str().into(),
        body,
    })
}

fn inbound(value: &listener::Listener) -> Result<Inbound, DecodeError> {
    let decoded: weft::Inbound = extension(value.metadata.as_ref())?;
    let mut ports = BTreeMap::new();
    for item in &decoded.ports {
        let port = port_number("inbound.port", item.port)?;
        if ports.insert(port, inbound_port(item)?).is_some() {
            return Err(invalid("inbound.port", format!("{port} is listed twice")));
        }
    }
    let undeclared = tls("inbound.undeclared", decoded.undeclared)?;
    Ok(Inbound { ports, undeclared })
}

fn inbound_port(value: &weft::InboundPort) -> Result<InboundPort, DecodeError> {
    Ok(InboundPort {
        protocol: protocol(value.protocol)?,
        tls: tls("inbound.tls", value.tls)?,
        service: (!value.service.is_empty()).then(|| value.service.as_str().into()),
    })
}

fn tls(field: &'static str, encoded: i32) -> Result<TlsMode, DecodeError> {
    use weft::inbound_port::TlsMode as Encoded;
    match Encoded::try_from(encoded) {
        Ok(Encoded::Strict) => Ok(TlsMode::Strict),
        Ok(Encoded::Permissive) => Ok(TlsMode::Permissive),
        Err(_) => Err(invalid(field, format!("{encoded} is not a mode"))),
    }
}

fn outbound(value: &listener::Listener) -> Result<ListenerBody, DecodeError> {
    let declared: weft::Outbound = extension(value.metadata.as_ref())?;
    let speaks = protocol(declared.protocol)?;
    let routes = value.api_listener.as_ref().map(routes).transpose()?;
    let cluster = value.filter_chains.first().map(tcp_cluster).transpose()?;
    match (speaks, &routes, &cluster) {
        (Protocol::Tcp, _, None) => Err(invalid(
            "filter_chains",
            "an opaque destination needs a TCP proxy",
        )),
        (Protocol::Http1 | Protocol::Http2 | Protocol::Grpc | Protocol::Detect, None, _) => {
            Err(invalid("api_listener", "a destination of requests needs routes"))
        }
        _ => Ok(ListenerBody::Outbound {
            protocol: speaks,
            routes,
            cluster,
        }),
    }
}

fn routes(value: &listener::ApiListener) -> Result<Name, DecodeError> {
    let manager: hcm::HttpConnectionManager = typed("api_listener", value.api_listener.as_ref())?;
    match manager.route_specifier {
        Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) if !rds.route_config_name.is_empty() => {
            Ok(rds.route_config_name.into())
        }
        _ => Err(invalid("api_listener.rds", "must name a route configuration")),
    }
}

fn tcp_cluster(value: &listener::FilterChain) -> Result<Name, DecodeError> {
    let config = value
        .filters
        .first()
        .and_then(|filter| filter.config_type.as_ref())
        .and_then(|config| match config {
            listener::filter::ConfigType::TypedConfig(any) => Some(any),
            listener::filter::ConfigType::ConfigDiscovery(_) => None,
        });
    let proxy: tcp_proxy::TcpProxy = typed("filter_chains", config)?;
    match proxy.cluster_specifier {
        Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(cluster)) if !cluster.is_empty() => {
            Ok(cluster.into())
        }
        _ => Err(invalid("tcp_proxy.cluster", "must name one cluster")),
    }
}

fn typed<M: prost::Message + prost::Name + Default>(
    field: &'static str,
    any: Option<&protobuf::Any>,
) -> Result<M, DecodeError> {
    let any = any.ok_or_else(|| invalid(field, format!("{} is missing", M::NAME)))?;
    if any.type_url != M::type_url() {
        return Err(invalid(
            field,
            format!("{} where {} belongs", any.type_url, M::type_url()),
        ));
    }
    message(any)
}
