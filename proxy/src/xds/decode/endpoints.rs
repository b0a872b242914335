//! `ClusterLoadAssignment` -> [`Endpoints`].

use std::collections::HashSet;

use weft_proxy_core::resource::{Endpoint, Endpoints, Name};
use weft_xds_proto::envoy::config::core::v3::HealthStatus;
use weft_xds_proto::envoy::config::endpoint::v3 as endpoint;
use weft_xds_proto::weft;

use super::{DecodeError, ENDPOINTS_MAX, extension, invalid, socket_address, too_many};

/// Decodes the endpoints of one cluster.
pub(super) fn decode(value: &endpoint::ClusterLoadAssignment) -> Result<Endpoints, DecodeError> {
    let mut endpoints = Vec::new();
    let mut seen = HashSet::new();
    for locality in &value.endpoints {
        let zone: Name = locality
            .locality
            .as_ref()
            .map(|locality| locality.zone.as_str())
            .unwrap_or_default()
            .into();
        for item in &locality.lb_endpoints {
            let Some(decoded) = decode_endpoint(item, &zone)? else {
                continue;
            };
            if !seen.insert(decoded.address) {
                return Err(invalid(
                    "endpoints",
                    format!("{} is listed twice", decoded.address),
                ));
            }
            if endpoints.len() == ENDPOINTS_MAX {
                return Err(too_many("endpoints", "endpoints", ENDPOINTS_MAX));
            }
            endpoints.push(decoded);
        }
    }
    Ok(Endpoints {
        cluster: value.cluster_name.as_str().into(),
        endpoints,
    })
}

/// `None`: unhealthy, not to be used.
fn decode_endpoint(value: &endpoint::LbEndpoint, zone: &Name) -> Result<Option<Endpoint>, DecodeError> {
    let ready = match HealthStatus::try_from(value.health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => true,
        Ok(HealthStatus::Draining | HealthStatus::Degraded) => false,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) | Err(_) => return Ok(None),
    };
    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)) = &value.host_identifier else {
        return Err(invalid("lb_endpoint", "must hold an endpoint"));
    };
    let weight = value
        .load_balancing_weight
        .as_ref()
        .map_or(1, |weight| weight.value);
    if weight == 0 {
        return Err(invalid("lb_endpoint.load_balancing_weight", "must be 1 or more"));
    }
    let info: weft::EndpointInfo = extension(value.metadata.as_ref())?;
    Ok(Some(Endpoint {
        address: socket_address(host.address.as_ref())?,
        weight,
        ready,
        zone: zone.clone(),
        identity: identity(&info.spiffe_id)?,
        workload: info.workload.into(),
    }))
}

/// Parsed here, so that an id that no certificate could ever have is refused with the resource.
fn identity(id: &str) -> Result<Option<Name>, DecodeError> {
    if id.is_empty() {
        return Ok(None);
    }
    id.parse::<weft_identity::spiffe::SpiffeId>()
        .map(|parsed| Some(parsed.to_string().into()))
        .map_err(|error| invalid("lb_endpoint.metadata.spiffe_id", format!("{id:?}: {error}")))
}
