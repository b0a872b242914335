//! MeshTLSPolicy: whether a workload lets plaintext in.
//!
//! Where no policy speaks, the answer is no. A policy can be attached to its own Namespace, to a Service, or to one
//! port of a Service; the narrowest one decides.

#![allow(clippy::doc_markdown, reason = "field texts are what kubectl explain shows")]
#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their keys")]
#![allow(unreachable_pub, reason = "the derive repeats each struct inside a function")]

use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::PolicyStatus;

/// Says which callers a workload lets in: only those with a mesh certificate, or plaintext too.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[kube(
    crates(kube = "::kube_derive", kube_core = "::kube_core"),
    attr = r#"x_kube(crates(kube_core = "::kube_core"))"#,
    group = "weft.dev",
    version = "v1alpha1",
    kind = "MeshTLSPolicy",
    root = "MeshTlsPolicy",
    plural = "meshtlspolicies",
    singular = "meshtlspolicy",
    shortname = "mtls",
    category = "weft",
    category = "weft-policy",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    cel,
    doc = "Says which callers workloads let in: only those with a mesh certificate (Strict, the default where no policy speaks), or plaintext too (Permissive). Attached to its own Namespace, a Service, or one port of a Service; the narrowest policy decides.",
    label("gateway.networking.k8s.io/policy", "Inherited"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetRefs[*].name"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.ancestors[*].conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.ancestors[*].conditions[?(@.type==\"Programmed\")].status"
    ),
    printcolumn(
        name = "Proxies",
        type_ = "string",
        json_path = ".status.ancestors[*].conditions[?(@.type==\"Programmed\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.ancestors[*].conditions[?(@.type==\"Accepted\")].reason",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshTlsPolicySpec {
    /// What the policy holds for: its own Namespace, or Services in it. At least one, at most 16, none twice.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, a.kind == b.kind && a.name == b.name \
        && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))")
        .message("the same target is named twice"))]
    pub target_refs: Vec<MeshTlsTarget>,
    /// Strict: only callers with a certificate of this mesh. Permissive: plaintext is let in too, for clients that
    /// have no sidecar yet.
    pub mode: Mode,
}

/// Who is let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Callers with a certificate of this mesh, nobody else.
    #[default]
    Strict,
    /// Callers with a certificate of this mesh, and plaintext.
    Permissive,
}

/// A Namespace, a Service, or one of a Service's ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.group == '' && self.kind in ['Namespace', 'Service']")
        .message("only a Namespace or a Service (group \"\") can be a target"),
    validation = Rule::new("!has(self.sectionName) || self.kind == 'Service'")
        .message("sectionName names a port, which only a Service has")
)]
pub struct MeshTlsTarget {
    /// API group of the target: "" (the core group).
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind of the target: Namespace or Service.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name of the target. A Namespace can only be the policy's own.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of one port of the Service. Left out, the policy holds for all of its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}
