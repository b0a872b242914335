//! From objects to the world's items: as written to as meant.
//!
//! Validation has gone over an object before it comes here, but the core doesn't rest on that: what it can't
//! understand is [`Rejected`] with the field and the reason, never guessed at and never a panic.

mod filter;
mod grpc;
mod http;
mod policy;
mod service;
mod workload;

pub use workload::in_mesh;

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_api::kubernetes::ObjectMeta;
use weft_api::object::{Kind, Object, ObjectRef};

use crate::resource::Name;
use crate::world::route::RouteKind;
use crate::world::{Created, Id, Item, ObjectName};

/// Why an object can't be taken in. Its last good version stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Rejected {
    /// The field, as a path from the object's root.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl Rejected {
    /// Names the field and the reason.
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
        }
    }
}

/// The item that an object stands for; `None`: none, such as a Namespace, or a Service outside the mesh.
pub fn ingest(object: &Object) -> Result<Option<Item>, Rejected> {
    match object {
        Object::Namespace(_) => Ok(None),
        Object::Service(object) => Ok(service::service(object)?.map(|item| Item::Service(Arc::new(item)))),
        Object::EndpointSlice(object) => Ok(service::slice(object)?.map(|item| Item::Slice(Arc::new(item)))),
        Object::Pod(object) => Ok(Some(Item::Pod(Arc::new(workload::pod(object)?)))),
        Object::HttpRoute(object) => Ok(Some(Item::Route(Arc::new(http::route(object)?)))),
        Object::GrpcRoute(object) => Ok(Some(Item::Route(Arc::new(grpc::route(object)?)))),
        Object::TrafficPolicy(object) => Ok(Some(Item::Policy(Arc::new(policy::traffic(object)?)))),
        Object::MeshTlsPolicy(object) => Ok(Some(Item::TlsPolicy(Arc::new(policy::tls(object)?)))),
    }
}

/// Why an object that stands for nothing doesn't, where its author may expect that it does.
pub fn outside(object: &Object) -> Option<Rejected> {
    let Object::Service(service) = object else {
        return None;
    };
    service::is_external(service).then(|| {
        Rejected::new(
            "spec.type",
            "an ExternalName is no destination of the mesh: call the name that it stands for",
        )
    })
}

/// What the ports of a Service say against each other, each in a sentence: see [`Service::contradictions`].
///
/// [`Service::contradictions`]: crate::world::service::Service::contradictions
pub fn contradictions(object: &weft_api::kubernetes::Service) -> Vec<String> {
    let Ok(Some(service)) = service::service(object) else {
        return Vec::new();
    };
    let contradictions = service.contradictions().into_iter();
    let said = contradictions.map(|(first, other)| {
        format!(
            "{}: port {} ({}) and port {} ({}) lead to port {} of its pods",
            service.name, first.port, first.protocol, other.port, other.protocol, first.target
        )
    });
    said.collect()
}

/// The name of the item that an object of this name stands for.
pub fn id(object: &ObjectRef) -> Option<Id> {
    let name = ObjectName {
        namespace: object.namespace.clone(),
        name: object.name.clone(),
    };
    Some(match object.kind {
        Kind::Namespace => return None,
        Kind::Service => Id::Service(name),
        Kind::EndpointSlice => Id::Slice(name),
        Kind::Pod => Id::Pod(name),
        Kind::HttpRoute => Id::Route(RouteKind::Http, name),
        Kind::GrpcRoute => Id::Route(RouteKind::Grpc, name),
        Kind::TrafficPolicy => Id::Policy(name),
        Kind::MeshTlsPolicy => Id::TlsPolicy(name),
    })
}

/// The object's name and age.
fn head(metadata: &ObjectMeta) -> Result<(ObjectName, Created), Rejected> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Rejected::new("metadata.name", "is missing: name the object"))?;
    let namespace = metadata
        .namespace
        .as_deref()
        .unwrap_or(weft_api::annotation::DEFAULT_NAMESPACE);
    let created = metadata
        .creation_timestamp
        .as_ref()
        .map_or_else(Created::default, |time| Created(time.0.as_second()));
    Ok((ObjectName::new(namespace, name), created))
}

fn labels(written: Option<&BTreeMap<String, String>>) -> BTreeMap<Name, Name> {
    written
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

/// A port as Kubernetes writes it.
fn port(field: &str, written: i32) -> Result<u16, Rejected> {
    let number = u16::try_from(written).ok().filter(|number| *number > 0);
    number.ok_or_else(|| Rejected::new(field, format!("{written} is no port: write 1 to 65535")))
}

/// Whether a port's transport protocol is TCP, the only one that the mesh carries.
fn is_tcp(written: Option<&str>) -> bool {
    written.is_none_or(|protocol| protocol == "TCP")
}

#[cfg(test)]
mod tests;
