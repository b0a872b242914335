//! Workloads: Pods of the cluster, and those that registered themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::service::TargetPort;
use super::{Fact, ObjectName};
use crate::inject::{Ports, STATUS_PORT};
use crate::resource::Name;

/// A Pod, for its identity and its own side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name, and so its node id.
    pub name: ObjectName,
    /// Its service account.
    pub account: Name,
    /// Its labels.
    pub labels: BTreeMap<Name, Name>,
    /// Its addresses, once it has any.
    pub addresses: BTreeSet<IpAddr>,
    /// TCP ports that its containers declare: number, and name where it has one.
    pub ports: BTreeMap<u16, Option<Name>>,
    /// Ports that its sidecar does not capture.
    pub(crate) skipped: Vec<Ports>,
    /// Ports whose traffic is bytes to the mesh, whatever else is said of them.
    pub(crate) opaque: Vec<Ports>,
}

impl Pod {
    pub(super) fn facts(&self) -> BTreeSet<Fact> {
        let mut facts: BTreeSet<Fact> = self.addresses.iter().map(|ip| Fact::PodsAt(*ip)).collect();
        facts.insert(Fact::Pod(self.name.clone()));
        if !self.opaque.is_empty() {
            facts.insert(Fact::OpaqueIn(self.name.namespace.clone()));
        }
        facts
    }

    /// Whether the mesh has nothing to do with a port; with its sidecar's own it never has.
    pub fn skips(&self, port: u16) -> bool {
        port == STATUS_PORT || self.skipped.iter().any(|ports| ports.contains(port))
    }

    /// Whether a port carries bytes.
    pub fn is_opaque(&self, port: u16) -> bool {
        self.opaque.iter().any(|ports| ports.contains(port))
    }

    /// Its port behind a Service's port; `None`: it declares no port of that name.
    pub fn target(&self, target: &TargetPort) -> Option<u16> {
        match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => self
                .ports
                .iter()
                .find(|(_, declared)| declared.as_ref() == Some(name))
                .map(|(number, _)| *number),
        }
    }
}

/// A workload that registered itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its node id.
    pub node: ObjectName,
    /// Its SPIFFE id.
    pub identity: Name,
    /// Where it is dialled: its stream's peer.
    pub address: IpAddr,
    /// What it serves, sorted.
    pub ports: Vec<WorkloadPort>,
    /// Topology zone; empty: unknown.
    pub zone: Name,
    /// Its labels.
    pub labels: BTreeMap<Name, Name>,
    /// Its health check passes. One that doesn't is no endpoint.
    pub healthy: bool,
    /// Takes new requests. One that doesn't (draining) is used only when no other is left.
    pub ready: bool,
}

/// A port that a workload serves for a Service of its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkloadPort {
    /// The Service.
    pub service: Name,
    /// The Service's port.
    pub service_port: u16,
    /// What peers dial.
    pub listen_port: u16,
}

impl Workload {
    pub(super) fn facts(&self) -> BTreeSet<Fact> {
        BTreeSet::from([
            Fact::Workload(self.node.clone()),
            Fact::WorkloadsIn(self.node.namespace.clone()),
            Fact::WorkloadsAt(self.address),
        ])
    }
}
