//! Workloads: Pods of the cluster, and those that registered themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Fact, ObjectName};
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
}

impl Pod {
    pub(super) fn facts(&self) -> BTreeSet<Fact> {
        let mut facts: BTreeSet<Fact> = self.addresses.iter().map(|ip| Fact::PodsAt(*ip)).collect();
        facts.insert(Fact::Pod(self.name.clone()));
        facts
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
