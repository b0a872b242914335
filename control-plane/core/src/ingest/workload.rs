//! Pods.

use weft_api::annotation::DEFAULT_SERVICE_ACCOUNT;
use weft_api::kubernetes::Pod as Object;

use super::{Rejected, head, is_tcp, labels, port};
use crate::world::workload::Pod;

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
