//! Pods.

use weft_api::annotation::DEFAULT_SERVICE_ACCOUNT;
use weft_api::kubernetes::Pod as Object;

use super::{Rejected, head, is_tcp, labels, port};
use crate::world::workload::Pod;

/// The native sidecar of an injected Pod.
const PROXY_CONTAINER: &str = "weft-proxy";

/// Whether a cluster's Pod is in the mesh: it has the sidecar, and is not over. The addresses of a Pod that is over may
/// be another's already.
pub fn in_mesh(object: &Object) -> bool {
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    let mut containers = object
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecar = containers.any(|container| {
        container.name == PROXY_CONTAINER && container.restart_policy.as_deref() == Some("Always")
    });
    sidecar && !over
}

/// A Pod. Ports of its init containers count: a native sidecar is one.
pub(super) fn pod(object: &Object) -> Result<Pod, Rejected> {
    let (name, _) = head(&object.metadata)?;
    let spec = object
        .spec
        .as_ref()
        .ok_or_else(|| Rejected::new("spec", "is missing: a Pod needs its account"))?;
    let mut ports = std::collections::BTreeMap::new();
    for container in spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
    {
        for written in container
            .ports
            .iter()
            .flatten()
            .filter(|written| is_tcp(written.protocol.as_deref()))
        {
            let field = format!("spec.containers[{}].ports.containerPort", container.name);
            let number = port(&field, written.container_port)?;
            ports.insert(number, written.name.as_deref().map(Into::into));
        }
    }
    let status = object.status.as_ref();
    let addresses = status.into_iter().flat_map(|status| {
        let more = status.pod_ips.iter().flatten().map(|found| found.ip.as_str());
        status.pod_ip.as_deref().into_iter().chain(more)
    });
    let account = spec
        .service_account_name
        .as_deref()
        .filter(|account| !account.is_empty());
    Ok(Pod {
        name,
        account: account.unwrap_or(DEFAULT_SERVICE_ACCOUNT).into(),
        labels: labels(object.metadata.labels.as_ref()),
        addresses: addresses
            .filter_map(|ip| ip.parse::<std::net::IpAddr>().ok())
            .map(|ip| ip.to_canonical())
            .collect(),
        ports,
    })
}
