//! Values of the core -> protobuf, pure. One file per xDS type; what differs between clients is in [`Dialect`]:
//!
//! - our own proxy reads everything, with typed extensions (`weft.dev` in `metadata`) for what the standard types
//!   cannot say; each endpoint carries the identity it must prove;
//! - gRPC gets the subset it accepts: routes by prefix, path or pattern, `certificate_provider_instance`, one list of
//!   exact SANs per cluster;
//! - Envoy gets one socket listener with routes by Host, SDS for the trust bundle and the certificate that its own
//!   bootstrap names [`CERTIFICATE_NAME`].
//!
//! What a dialect can't express safely doesn't exist in it: [`encode`] answers `None`.

use std::net::SocketAddr;
use std::time::Duration;

use weft_control_plane_core::dialect::Dialect;
use weft_control_plane_core::resource::Resource;
use weft_xds_proto::envoy::config::core::v3 as core;
use weft_xds_proto::google::protobuf;
use weft_xds_proto::{names, pack_any};

mod cluster;
mod endpoints;
mod listener;
mod route;
mod secret;
#[cfg(test)]
mod tests;

/// Part of every version: raised whenever the same value is encoded differently than before, so that clients that
/// hold the old encoding are sent the new one.
pub const ENCODING_REVISION: u32 = 2;

/// Name under which a foreign client's bootstrap provides its own mesh certificate: gRPC's certificate provider
/// instance, Envoy's static secret.
pub const CERTIFICATE_NAME: &str = "default";

/// What encoding depends on beside the value.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Names the trust bundle.
    pub trust_domain: &'a str,
    /// Where Envoy's one listener binds; without it there is no such listener.
    pub listen: Option<SocketAddr>,
}

/// Encodes `resource` under `name`. `None`: it does not exist in this dialect.
pub fn encode(
    name: &str,
    resource: &Resource,
    dialect: Dialect,
    context: &Context<'_>,
) -> Option<protobuf::Any> {
    match resource {
        Resource::Cluster(value) => Some(pack_any(cluster::encode(name, value, dialect, context))),
        Resource::Endpoints(value) => Some(pack_any(endpoints::encode(name, value, dialect))),
        Resource::Listener(value) => listener::encode(name, value, dialect, context).map(pack_any),
        Resource::Route(value) => Some(pack_any(route::encode(name, value, dialect))),
        Resource::TrustBundle(roots) => Some(pack_any(secret::encode(name, roots))),
        Resource::Hints(listeners) => {
            (dialect == Dialect::Weft).then(|| pack_any(listener::hints(name, listeners)))
        }
    }
}

/// `message` as our typed extension.
fn extension<M: prost::Message + prost::Name>(message: M) -> core::Metadata {
    core::Metadata {
        typed_filter_metadata: [(names::METADATA_KEY.to_owned(), pack_any(message))].into(),
        ..core::Metadata::default()
    }
}

/// "From this same stream."
fn from_ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..core::ConfigSource::default()
    }
}

/// Protobuf's duration; beyond its range (10,000 years) it is cut.
fn duration(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

fn number(value: u32) -> protobuf::UInt32Value {
    protobuf::UInt32Value { value }
}

fn socket_address(address: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(
                address.port().into(),
            )),
            ..core::SocketAddress::default()
        })),
    }
}
