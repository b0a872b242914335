//! Services of meshed pods, and what in them can't have the effect that it seems to have.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use weft_control_plane::kubernetes::contradictions;

use super::facts::{Facts, is_injected};
use super::report::{Category, Line, Lines};

/// Whether two ports of a Service lead to one port of its pods and say that it speaks differently. Namespaces without a
/// pod in the mesh are left alone.
pub(super) fn ports(facts: &Facts, lines: &mut Vec<Line>) {
    let mut lines = Lines {
        category: Category::Workloads,
        lines,
    };
    let services = match &facts.services {
        Ok(services) => services,
        Err(why) => {
            let says = format!("services can't be listed: {why}");
            lines.fail("ports", says, "ask for the right to list services");
            return;
        }
    };
    let meshed: BTreeSet<_> = facts
        .running()
        .filter(|pod| is_injected(pod))
        .map(|pod| &pod.metadata.namespace)
        .collect();
    let here = |service: &&Service| meshed.contains(&service.metadata.namespace);
    let found: Vec<String> = services.iter().filter(here).flat_map(contradictions).collect();
    if !found.is_empty() {
        lines.warn(
            "ports",
            "Services that say of one port of their pods that it speaks two protocols: the first counts for both",
            found,
            "let the ports agree (appProtocol, or their names), or give each protocol a port of its own in the pods: gRPC \
             over what is declared as http loses its trailers",
        );
    }
}
