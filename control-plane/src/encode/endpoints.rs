//! Endpoints, grouped by zone.

use std::collections::BTreeMap;

use weft_control_plane_core::dialect::Dialect;
use weft_control_plane_core::resource::{Endpoint, Endpoints};
use weft_xds_proto::envoy::config::core::v3 as core;
use weft_xds_proto::envoy::config::endpoint::v3 as endpoint;
use weft_xds_proto::google::protobuf;
use weft_xds_proto::weft;

use super::{extension, number, socket_address};

/// Envoy picks a transport socket by this metadata (see `cluster::transport_socket_matches`).
pub(super) const SOCKET_MATCH_KEY: &str = "envoy.transport_socket_match";
/// The one field that is matched: whether the endpoint speaks mesh TLS.
pub(super) const SOCKET_MATCH_FIELD: &str = "mesh";

/// The endpoints of cluster `name`. gRPC leaves out a locality that has no weight, so each carries the sum of its
/// endpoints'.
pub(super) fn encode(name: &str, value: &Endpoints, dialect: Dialect) -> endpoint::ClusterLoadAssignment {
    let mut zones: BTreeMap<&str, Vec<&Endpoint>> = BTreeMap::new();
    for item in &value.endpoints {
        zones.entry(&item.zone).or_default().push(item);
    }
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: zones
            .into_iter()
            .map(|(zone, items)| locality(zone, &items, dialect))
            .collect(),
        ..endpoint::ClusterLoadAssignment::default()
    }
}

fn locality(zone: &str, items: &[&Endpoint], dialect: Dialect) -> endpoint::LocalityLbEndpoints {
    let weight = items
        .iter()
        .fold(0u32, |sum, item| sum.saturating_add(item.weight));
    endpoint::LocalityLbEndpoints {
        locality: Some(core::Locality {
            zone: zone.to_owned(),
            ..core::Locality::default()
        }),
        lb_endpoints: items.iter().map(|item| encode_endpoint(item, dialect)).collect(),
        load_balancing_weight: Some(number(weight)),
        ..endpoint::LocalityLbEndpoints::default()
    }
}

fn encode_endpoint(value: &Endpoint, dialect: Dialect) -> endpoint::LbEndpoint {
    let health = if value.ready {
        core::HealthStatus::Healthy
    } else {
        core::HealthStatus::Draining
    };
    endpoint::LbEndpoint {
        health_status: health.into(),
        load_balancing_weight: Some(number(value.weight)),
        metadata: metadata(value, dialect),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: Some(socket_address(value.address)),
                ..endpoint::Endpoint::default()
            },
        )),
    }
}

fn metadata(value: &Endpoint, dialect: Dialect) -> Option<core::Metadata> {
    match dialect {
        Dialect::Weft => Some(extension(weft::EndpointInfo {
            spiffe_id: value.identity.as_deref().unwrap_or_default().to_owned(),
            workload: value.workload.to_string(),
        })),
        Dialect::Envoy if value.identity.is_some() => Some(core::Metadata {
            filter_metadata: [(SOCKET_MATCH_KEY.to_owned(), mesh_struct())].into(),
            ..core::Metadata::default()
        }),
        Dialect::Envoy | Dialect::Grpc => None,
    }
}

/// `{"mesh": true}`.
pub(super) fn mesh_struct() -> protobuf::Struct {
    let yes = protobuf::Value {
        kind: Some(protobuf::value::Kind::BoolValue(true)),
    };
    protobuf::Struct {
        fields: [(SOCKET_MATCH_FIELD.to_owned(), yes)].into(),
    }
}
