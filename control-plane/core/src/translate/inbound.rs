//! A workload's own side: which ports it serves, how they speak, and who may connect.

use std::collections::BTreeMap;

use super::attach::{self, Destination};
use super::{Context, endpoints};
use crate::resource::{InboundPort, Listener, Name, Protocol};
use crate::world::workload::{Pod, Workload};
use crate::world::{Fact, ObjectName};

/// By the port that is dialled: the Service ports that lead to it.
type Leading<'w> = BTreeMap<u16, Vec<Destination<'w>>>;

/// The listener of the workload with this node id: registered, or a Pod. Ports that a Pod's sidecar doesn't capture are
/// left out.
pub fn translate(context: &mut Context<'_>, node: &ObjectName) -> Option<Listener> {
    let leading = if let Some(workload) = context.world.workload(node) {
        to_workload(context, workload)
    } else {
        let pod = context.world.pod(node)?;
        to_pod(context, pod)
    };
    let ports = leading
        .into_iter()
        .map(|(port, leading)| inbound(context, &node.namespace, port, leading))
        .collect();
    let permissive = attach::permissive(context, &node.namespace, &[]);
    Some(Listener::Inbound { ports, permissive })
}

fn to_workload<'w>(context: &mut Context<'w>, workload: &Workload) -> Leading<'w> {
    let mut leading: Leading<'w> = workload
        .ports
        .iter()
        .map(|port| (port.listen_port, Vec::new()))
        .collect();
    for destination in destinations(context, &workload.node.namespace) {
        for port in endpoints::served(context, workload, destination) {
            leading.entry(port).or_default().push(destination);
        }
    }
    leading
}

fn to_pod<'w>(context: &mut Context<'w>, pod: &Pod) -> Leading<'w> {
    let mut leading: Leading<'w> = pod.ports.keys().map(|port| (*port, Vec::new())).collect();
    for destination in destinations(context, &pod.name.namespace) {
        if destination.service.selects(&pod.labels) {
            let port = pod.target(&destination.port.target);
            leading
                .entry(port.unwrap_or_default())
                .or_default()
                .push(destination);
        }
    }
    for slice in context.world.slices(Fact::SlicesOfPod(pod.name.clone())) {
        for port in &slice.ports {
            let Some(destination) = Destination::find_named(context, &slice.service, &port.name) else {
                continue;
            };
            let number = port.port.or_else(|| pod.target(&destination.port.target));
            let known = leading.entry(number.unwrap_or_default()).or_default();
            if !known.contains(&destination) {
                known.push(destination);
            }
        }
    }
    // Nobody dials port 0: that is where named ports went that the Pod doesn't declare.
    leading.remove(&0);
    leading.retain(|port, _| !pod.skips(*port));
    leading
}

/// Every port of every Service of a namespace.
fn destinations<'w>(context: &mut Context<'w>, namespace: &Name) -> Vec<Destination<'w>> {
    let services = context.world.services(Fact::ServicesIn(namespace.clone()));
    services
        .flat_map(|service| {
            service.ports.iter().map(move |port| Destination {
                service: service.as_ref(),
                port,
            })
        })
        .collect()
}

fn inbound(
    context: &mut Context<'_>,
    namespace: &Name,
    port: u16,
    mut leading: Vec<Destination<'_>>,
) -> InboundPort {
    // The widest Service speaks for the port: the one that selects by the fewest labels.
    leading.sort_by_key(|to| (to.service.selector.len(), &to.service.name, to.port.port));
    let protocols = leading.iter().map(|to| attach::protocol(context, *to, None));
    let protocol = protocols
        .into_iter()
        .find(|protocol| *protocol != Protocol::Detect)
        .unwrap_or_default();
    InboundPort {
        port,
        protocol,
        permissive: attach::permissive(context, namespace, &leading),
        service: leading.first().map(|to| to.name(context)),
    }
}
