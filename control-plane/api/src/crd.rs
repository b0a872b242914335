//! Our kinds as a cluster gets them: the CRDs, whose schemas and CEL rules are also what [`crate::validate`] holds
//! manifests against.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::mesh_tls_policy::MeshTlsPolicy;
use crate::traffic_policy::TrafficPolicy;

pub use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// Every kind of ours, by name.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![mesh_tls_policy(), traffic_policy()]
}

/// `trafficpolicies.weft.dev`.
pub fn traffic_policy() -> CustomResourceDefinition {
    tidy(TrafficPolicy::crd())
}

/// `meshtlspolicies.weft.dev`.
pub fn mesh_tls_policy() -> CustomResourceDefinition {
    tidy(MeshTlsPolicy::crd())
}

fn tidy(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let schemas = crd
        .spec
        .versions
        .iter_mut()
        .filter_map(|version| version.schema.as_mut());
    schemas
        .filter_map(|schema| schema.open_api_v3_schema.as_mut())
        .for_each(drop_rust_formats);
    crd
}

/// Takes out formats that only Rust knows (`uint32`): the API server would warn of each. Their bounds are written
/// out beside them.
fn drop_rust_formats(schema: &mut JSONSchemaProps) {
    if schema
        .format
        .as_deref()
        .is_some_and(|format| format.starts_with("uint"))
    {
        schema.format = None;
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
        .for_each(drop_rust_formats);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        drop_rust_formats(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(rest)) = &mut schema.additional_properties {
        drop_rust_formats(rest);
    }
}
