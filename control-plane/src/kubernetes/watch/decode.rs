//! From the API server's JSON to objects, one by one: an object that can't be read spoils no other.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_api::gateway::{GrpcRoute, HttpRoute};
use weft_api::kubernetes::{EndpointSlice, Namespace, Pod, Service};
use weft_api::mesh_tls_policy::MeshTlsPolicy;
use weft_api::object::{Kind, Object};
use weft_api::traffic_policy::TrafficPolicy;
use weft_control_plane_core::ingest::Rejected;

use super::api::Fault;
use super::kinds::Watched;

/// Namespace and name; the namespace is empty for a kind that has none.
pub(super) type Name = (Arc<str>, Arc<str>);

/// What stands under a name.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// An object.
    Object(Object),
    /// One that can't be read.
    Unreadable {
        /// `metadata.generation`.
        generation: Option<i64>,
        /// The field and the reason.
        why: Rejected,
    },
    /// A definition: its name is all that counts.
    Definition,
}

/// Reads an object.
pub(super) fn object(kind: Watched, mut value: Value) -> (Name, Found) {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().into();
    let name = (text("namespace"), text("name"));
    let generation = value["metadata"]["generation"].as_i64();
    let Watched::Object(kind) = kind else {
        return (name, Found::Definition);
    };
    prune(kind, &mut value);
    let found = match typed(kind, value) {
        Ok(object) => Found::Object(object),
        Err(error) => Found::Unreadable {
            generation,
            why: Rejected::new("spec", format!("this version of the mesh can't read it: {error}")),
        },
    };
    (name, found)
}

/// The version that an object has brought the watch to.
pub(super) fn version(value: &Value) -> Result<String, Fault> {
    let version = value["metadata"]["resourceVersion"].as_str();
    version.map(ToOwned::to_owned).ok_or(Fault::NoVersion)
}

/// Takes away what nobody reads: who wrote which field; every status but a Pod's, in which other controllers may have
/// written what we can't read; the kind, which is another where only the metadata were asked for.
fn prune(kind: Kind, value: &mut Value) {
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    if let Some(object) = value.as_object_mut() {
        object.remove("apiVersion");
        object.remove("kind");
        if kind != Kind::Pod {
            object.remove("status");
        }
    }
}

fn typed(kind: Kind, value: Value) -> serde_json::Result<Object> {
    fn read<T: DeserializeOwned + Into<Object>>(value: Value) -> serde_json::Result<Object> {
        serde_json::from_value::<T>(value).map(Into::into)
    }
    match kind {
        Kind::Namespace => read::<Namespace>(value),
        Kind::Service => read::<Service>(value),
        Kind::Pod => read::<Pod>(value),
        Kind::EndpointSlice => read::<EndpointSlice>(value),
        Kind::HttpRoute => read::<HttpRoute>(value),
        Kind::GrpcRoute => read::<GrpcRoute>(value),
        Kind::TrafficPolicy => read::<TrafficPolicy>(value),
        Kind::MeshTlsPolicy => read::<MeshTlsPolicy>(value),
    }
}
