//! Rules for our own kinds that a schema can't hold, because CEL in a CRD doesn't see the object's namespace.

use super::field::{Field, Problems};
use crate::annotation::DEFAULT_NAMESPACE;

/// A MeshTLSPolicy: a Namespace that it targets is its own.
pub(super) fn mesh_tls(object: &Field<'_>, problems: &mut Problems) {
    let namespace = object
        .find(["metadata", "namespace"])
        .and_then(|namespace| namespace.value.as_str());
    let own = namespace.unwrap_or(DEFAULT_NAMESPACE);
    let targets = object
        .get("spec")
        .map(|spec| spec.items("targetRefs"))
        .unwrap_or_default();
    for target in targets
        .iter()
        .filter(|target| target.text("kind") == Some("Namespace"))
    {
        if let Some(name) = target.text("name").filter(|name| *name != own) {
            problems.error(
                &target.at.key("name"),
                format!("the policy is in namespace {own} and can't decide for namespace {name}"),
                format!("name {own}, or put the policy into namespace {name}"),
            );
        }
    }
}
