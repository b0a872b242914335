//! Our kinds as a cluster gets them: the CRDs, whose schemas and CEL rules are also what [`crate::validate`] holds
//! manifests against.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube_core::CustomResourceExt;

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
    for schema in schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()) {
        schema.title = None;
        tidy_schema(schema);
    }
    crd
}

/// Takes out of a schema, and of all below it, what means something in Rust alone.
///
/// - Formats such as `uint32`: the API server would warn of each. Their bounds are written out beside them.
/// - `nullable`: without it the API server takes `field: null` for a field that isn't there, as we do; with it, null
///   is kept and meets rules that are about a value.
/// - Line breaks of the sources: a terminal has its own width.
fn tidy_schema(schema: &mut JSONSchemaProps) {
    if schema
        .format
        .as_deref()
        .is_some_and(|format| format.starts_with("uint"))
    {
        schema.format = None;
    }
    schema.nullable = None;
    if let Some(text) = &mut schema.description {
        *text = text
            .split("\n\n")
            .map(|part| part.replace('\n', " "))
            .collect::<Vec<_>>()
            .join("\n\n");
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
        .for_each(tidy_schema);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy_schema(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(rest)) = &mut schema.additional_properties {
        tidy_schema(rest);
    }
}
