//! What our policies share: what they attach to, and what is said about them in return. Shaped after GEP-713:
//! a policy names its targets, in its own namespace; for each target that it was weighed for (the "ancestor")
//! its status carries one entry with conditions.

#![allow(clippy::doc_markdown, reason = "field texts are what kubectl explain shows")]
#![allow(unreachable_pub, reason = "the derive repeats each struct inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_derive::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Most targets of one policy.
pub const MAX_TARGETS: usize = 16;

/// Most entries in one policy's status (GEP-713).
pub const MAX_ANCESTORS: usize = 16;

/// A Service, or one of its ports, in the policy's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.group == '' && self.kind == 'Service'")
    .message("only a Service (group \"\", kind Service) can be a target"))]
pub struct ServiceTarget {
    /// API group of the target: "" (the core group).
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind of the target: Service.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name of the Service.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of one port of the Service. Left out, the policy holds for all of its ports; a policy that names the
    /// port wins over one that doesn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// What is said about a policy, target by target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// One entry for each target and controller that has weighed this policy.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub ancestors: Vec<PolicyAncestorStatus>,
}

/// What one controller says about a policy on one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// The target this entry is about.
    pub ancestor_ref: AncestorRef,
    /// Who wrote it, as a domain and path: weft.dev/control-plane.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// Accepted: the policy is in force on this target, or why it isn't. ResolvedRefs: everything it names exists.
    /// Programmed: how many proxies have taken it over.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// Kubernetes' conditions, one of each type, with the bounds that its own kinds have.
fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One thing that is said about the policy on this target.",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {
                    "description": "What it is about: Accepted, ResolvedRefs or Programmed.",
                    "type": "string",
                    "maxLength": 316,
                    "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
                "status": {
                    "description": "Whether it is so: True, False or Unknown.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "reason": {
                    "description": "Why, in one word for programs.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "description": "Why, in words for people.",
                    "type": "string",
                    "maxLength": 32768,
                },
                "observedGeneration": {
                    "description": "The metadata.generation that this was said of; an older one than the object's is out of date.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "lastTransitionTime": {
                    "description": "When the status last changed.",
                    "type": "string",
                    "format": "date-time",
                },
            },
        },
    })
}

/// Names a target in a status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorRef {
    /// API group of the target.
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind of the target.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Namespace of the target; left out, the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Name of the target.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of the target's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}
