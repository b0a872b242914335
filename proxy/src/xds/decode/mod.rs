//! Protobuf -> resources of the core, pure. Everything a resource must hold is checked here, once: what comes out
//! can be linked and used without a further look. What breaks a rule is refused with the field and the reason, and
//! the client NACKs that one resource.

use std::net::SocketAddr;
use std::time::Duration;

use prost::{Message, Name};
use weft_proxy_core::resource::{Hints, Protocol, Resource, TrustBundle};
use weft_xds_proto::envoy::config::cluster::v3::Cluster;
use weft_xds_proto::envoy::config::core::v3 as core;
use weft_xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use weft_xds_proto::envoy::config::listener::v3::Listener;
use weft_xds_proto::envoy::config::route::v3::RouteConfiguration;
use weft_xds_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use weft_xds_proto::google::protobuf;
use weft_xds_proto::{names, types, weft};

mod cluster;
mod endpoints;
mod listener;
mod route;

/// Bytes of one encoded resource, at most.
pub const RESOURCE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Endpoints of one cluster, at most.
pub const ENDPOINTS_MAX: usize = 20_000;
/// Rules of one route table, at most.
pub const RULES_MAX: usize = 2_048;
/// Listener names in hints, at most.
pub const HINTS_MAX: usize = 1_024;
/// Certificates in a trust bundle, at most.
pub const ROOTS_MAX: usize = 64;

/// Why a resource was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not the protobuf message that its type says.
    #[error("not a {kind}: {reason}; the control plane and this proxy may be of versions too far apart")]
    Malformed {
        /// The message expected.
        kind: &'static str,
        /// What protobuf says.
        reason: String,
    },
    /// A type this proxy doesn't read.
    #[error("resources of type {0:?} are not read by this proxy")]
    UnknownType(String),
    /// The name in the resource isn't the one it was sent under.
    #[error("sent as {sent:?}, but its own name is {own:?}")]
    NameMismatch {
        /// The name in the response.
        sent: String,
        /// The name in the resource.
        own: String,
    },
    /// A field that breaks a rule.
    #[error("{field}: {reason}")]
    Invalid {
        /// Path of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Decodes one resource that was sent under `name`.
pub fn decode(name: &str, any: &protobuf::Any) -> Result<Resource, DecodeError> {
    if any.value.len() > RESOURCE_BYTES_MAX {
        return Err(too_many("resource", "bytes", RESOURCE_BYTES_MAX));
    }
    let resource = match any.type_url.as_str() {
        types::CLUSTER => Resource::Cluster(cluster::decode(&message::<Cluster>(any)?)?),
        types::ENDPOINTS => Resource::Endpoints(endpoints::decode(&message::<ClusterLoadAssignment>(any)?)?),
        types::LISTENER => Resource::Listener(listener::decode(&message::<Listener>(any)?)?),
        types::ROUTE => Resource::Routes(route::decode(&message::<RouteConfiguration>(any)?)?),
        types::SECRET => Resource::Trust(trust(message::<Secret>(any)?)?),
        types::HINTS => Resource::Hints(hints(message::<weft::Hints>(any)?)?),
        other => return Err(DecodeError::UnknownType(other.to_owned())),
    };
    if resource.name().as_ref() != name {
        return Err(DecodeError::NameMismatch {
            sent: name.to_owned(),
            own: resource.name().to_string(),
        });
    }
    Ok(resource)
}

fn message<M: Message + Name + Default>(any: &protobuf::Any) -> Result<M, DecodeError> {
    M::decode(any.value.as_slice()).map_err(|error| DecodeError::Malformed {
        kind: M::NAME,
        reason: error.to_string(),
    })
}

fn trust(value: Secret) -> Result<TrustBundle, DecodeError> {
    use weft_xds_proto::envoy::config::core::v3::data_source::Specifier;
    let Some(secret::Type::ValidationContext(context)) = value.r#type else {
        return Err(invalid("secret.type", "a trust bundle is a validation_context"));
    };
    let pem = match context.trusted_ca.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::InlineString(text)) => text.into_bytes(),
        _ => return Err(invalid("validation_context.trusted_ca", "must be inline")),
    };
    let roots = pem_certificates(&pem)?;
    Ok(TrustBundle {
        name: value.name.into(),
        roots,
    })
}

fn pem_certificates(pem: &[u8]) -> Result<Vec<std::sync::Arc<[u8]>>, DecodeError> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    const FIELD: &str = "validation_context.trusted_ca";
    let mut roots = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| invalid(FIELD, format!("not PEM: {error}")))?;
        if roots.len() == ROOTS_MAX {
            return Err(too_many(FIELD, "certificates", ROOTS_MAX));
        }
        roots.push(certificate.as_ref().into());
    }
    if roots.is_empty() {
        return Err(invalid(
            FIELD,
            "holds no certificate; an empty bundle would trust nobody",
        ));
    }
    Ok(roots)
}

fn hints(value: weft::Hints) -> Result<Hints, DecodeError> {
    if value.listeners.len() > HINTS_MAX {
        return Err(too_many("hints.listeners", "names", HINTS_MAX));
    }
    Ok(Hints {
        name: value.name.into(),
        listeners: value.listeners.into_iter().map(Into::into).collect(),
    })
}

/// Our typed extension in `metadata`.
fn extension<M: Message + Name + Default>(metadata: Option<&core::Metadata>) -> Result<M, DecodeError> {
    let any = metadata
        .and_then(|metadata| metadata.typed_filter_metadata.get(names::METADATA_KEY))
        .ok_or_else(|| invalid("metadata", format!("weft.v1.{} is missing", M::NAME)))?;
    if any.type_url != M::type_url() {
        return Err(invalid(
            "metadata",
            format!("{} where {} belongs", any.type_url, M::type_url()),
        ));
    }
    message(any)
}

fn protocol(value: i32) -> Result<Protocol, DecodeError> {
    match weft::Protocol::try_from(value) {
        Ok(weft::Protocol::Detect) => Ok(Protocol::Detect),
        Ok(weft::Protocol::Http1) => Ok(Protocol::Http1),
        Ok(weft::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(weft::Protocol::Grpc) => Ok(Protocol::Grpc),
        Ok(weft::Protocol::Tcp) => Ok(Protocol::Tcp),
        Err(_) => Err(invalid("protocol", format!("{value} is not a protocol"))),
    }
}

fn socket_address(value: Option<&core::Address>) -> Result<SocketAddr, DecodeError> {
    const FIELD: &str = "endpoint.address";
    let Some(core::address::Address::SocketAddress(socket)) = value.and_then(|value| value.address.as_ref())
    else {
        return Err(invalid(FIELD, "must be a socket_address"));
    };
    let ip = socket
        .address
        .parse()
        .map_err(|_| invalid(FIELD, format!("{:?} is not an IP address", socket.address)))?;
    let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return Err(invalid(FIELD, "needs a port_value"));
    };
    Ok(SocketAddr::new(ip, port_number(FIELD, port)?))
}

fn port_number(field: &'static str, value: u32) -> Result<u16, DecodeError> {
    u16::try_from(value)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| invalid(field, format!("{value} is not a port (1 to 65535)")))
}

/// Absent is `None`; negative durations are refused.
fn duration(field: &'static str, value: Option<protobuf::Duration>) -> Result<Option<Duration>, DecodeError> {
    value
        .map(|value| {
            let seconds = u64::try_from(value.seconds).ok();
            let nanos = u32::try_from(value.nanos)
                .ok()
                .filter(|nanos| *nanos < 1_000_000_000);
            seconds
                .zip(nanos)
                .map(|(seconds, nanos)| Duration::new(seconds, nanos))
                .ok_or_else(|| invalid(field, "is negative or out of range"))
        })
        .transpose()
}

fn invalid(field: &'static str, reason: impl Into<String>) -> DecodeError {
    DecodeError::Invalid {
        field,
        reason: reason.into(),
    }
}

fn too_many(field: &'static str, what: &str, most: usize) -> DecodeError {
    invalid(field, format!("more than {most} {what}"))
}
