//! Pods.

use weft_api::annotation::DEFAULT_SERVICE_ACCOUNT;
use weft_api::kubernetes::Pod as Object;

use super::{Rejected, head, is_tcp, labels, port};
use crate::inject::tuning::{OPAQUE_PORTS, SKIP_INBOUND_PORTS};
use crate::inject::{INIT_CONTAINER, PROXY_CONTAINER, Ports, ports};
use crate::world::workload::Pod;

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
    let mut declared = std::collections::BTreeMap::new();
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
            declared.insert(number, written.name.as_deref().map(Into::into));
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
    let annotations = object.metadata.annotations.as_ref();
    let annotation = |name: &str| Some(annotations?.get(name)?.as_str());
    let said = initial_skips(object).or_else(|| annotation(SKIP_INBOUND_PORTS));
    let skipped = listed(SKIP_INBOUND_PORTS, said)?;
    let opaque = listed(OPAQUE_PORTS, annotation(OPAQUE_PORTS))?;
    Ok(Pod {
        name,
        account: account.unwrap_or(DEFAULT_SERVICE_ACCOUNT).into(),
        labels: labels(object.metadata.labels.as_ref()),
        addresses: addresses
            .filter_map(|ip| ip.parse::<std::net::IpAddr>().ok())
            .map(|ip| ip.to_canonical())
            .collect(),
        ports: declared,
        skipped,
        opaque,
    })
}

/// The ports that the rules in force in an injected Pod leave alone: what the operator and the Pod said together.
fn initial_skips(object: &Object) -> Option<&str> {
    let mut containers = object
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let init = containers.find(|container| container.name == INIT_CONTAINER)?;
    let prefix = "--skip-inbound-ports=";
    init.args
        .iter()
        .flatten()
        .find_map(|argument| argument.strip_prefix(prefix))
}

fn listed(annotation: &str, said: Option<&str>) -> Result<Vec<Ports>, Rejected> {
    let field = || format!("metadata.annotations[{annotation}]");
    ports(said.unwrap_or_default()).map_err(|error| Rejected::new(field(), error.to_string()))
}
