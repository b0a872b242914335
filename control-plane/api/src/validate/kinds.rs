//! Which schema holds for which kind: our own kinds' CRDs, the routes' bindings, Kubernetes' own types.

use std::sync::LazyLock;

use kube_core::CustomResourceExt;
use kube_core::cel::{CompiledSchema, compile_schema};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::schema::Schema;
use crate::gateway::{GrpcRoute, HttpRoute};
use crate::kubernetes::{EndpointSlice, Namespace, ObjectMeta, Pod, Service};
use crate::object::Kind;

/// What a kind is checked with.
pub(super) struct Definition {
    pub(super) kind: Kind,
    pub(super) schema: Schema,
    /// Rules in CEL; only our own kinds have them here, the others' rules are written in Rust.
    pub(super) cel: Option<CompiledSchema>,
}

/// The definition of a kind.
pub(super) fn definition(kind: Kind) -> &'static Definition {
    static DEFINITIONS: LazyLock<Vec<Definition>> =
        LazyLock::new(|| Kind::ALL.iter().map(|kind| define(*kind)).collect());
    DEFINITIONS
        .iter()
        .find(|definition| definition.kind == kind)
        .expect("every kind is defined")
}

fn define(kind: Kind) -> Definition {
    let definitions = kubernetes();
    let core = |name: &str| Schema::read(&json!({ "$ref": format!("#/definitions/{name}") }), &definitions);
    let custom = |json: &Value| {
        let mut schema = Schema::read(json, &Map::new());
        let text = json!({ "type": "string" });
        schema.add("apiVersion", Schema::read(&text, &Map::new()));
        schema.add("kind", Schema::read(&text, &Map::new()));
        schema.add(
            "metadata",
            core("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"),
        );
        schema
    };
    let (schema, cel) = match kind {
        Kind::Namespace => (core("io.k8s.api.core.v1.Namespace"), None),
        Kind::Service => (core("io.k8s.api.core.v1.Service"), None),
        Kind::Pod => (core("io.k8s.api.core.v1.Pod"), None),
        Kind::EndpointSlice => (core("io.k8s.api.discovery.v1.EndpointSlice"), None),
        Kind::HttpRoute => (custom(&crd_schema(&HttpRoute::crd())), None),
        Kind::GrpcRoute => (custom(&crd_schema(&GrpcRoute::crd())), None),
        Kind::TrafficPolicy => {
            let json = crd_schema(&crate::crd::traffic_policy());
            (custom(&json), Some(compile_schema(&json)))
        }
        Kind::MeshTlsPolicy => {
            let json = crd_schema(&crate::crd::mesh_tls_policy());
            (custom(&json), Some(compile_schema(&json)))
        }
    };
    Definition { kind, schema, cel }
}

/// The schema that a CRD carries.
pub(super) fn crd_schema(crd: &crate::crd::CustomResourceDefinition) -> Value {
    let version = crd.spec.versions.first();
    let schema = version.and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    serde_json::to_value(schema).unwrap_or_default()
}

/// The schemas of Kubernetes' own types, by their long names.
pub(super) fn kubernetes() -> Map<String, Value> {
    let mut generator = SchemaSettings::draft07().into_generator();
    let _ = generator.subschema_for::<Namespace>();
    let _ = generator.subschema_for::<Service>();
    let _ = generator.subschema_for::<Pod>();
    let _ = generator.subschema_for::<EndpointSlice>();
    let _ = generator.subschema_for::<ObjectMeta>();
    let mut definitions = generator.take_definitions(false);
    // A quantity may be written as a number too: `cpu: 2`.
    definitions.insert(
        "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
        json!({}),
    );
    definitions
}
