//! Hints: names that workloads of the same identity use, so that a new one can ask for them before its first request.

use super::Context;
use crate::resource::Name;
use crate::world::ObjectName;

/// Most names in one workload's hints. Advice needn't be complete.
pub const HINTS_MAX: usize = 1024;

/// The hints for a node: a registered workload, a Pod, or `<namespace>/sa/<account>`.
pub fn translate(context: &mut Context<'_>, node: &str) -> Option<Vec<Name>> {
    let identity = identity(context, node)?;
    let used = context.world.used_by(&identity);
    Some(
        used.into_iter()
            .flat_map(|names| names.iter())
            .take(HINTS_MAX)
            .cloned()
            .collect(),
    )
}

fn identity(context: &mut Context<'_>, node: &str) -> Option<Name> {
    let Some(name) = ObjectName::parse(node) else {
        let (namespace, account) = node.split_once("/sa/")?;
        return Some(context.settings.identity(namespace, account));
    };
    if let Some(workload) = context.world.workload(&name) {
        return Some(workload.identity.clone());
    }
    let pod = context.world.pod(&name)?;
    Some(context.settings.identity(&name.namespace, &pod.account))
}
