//! EndpointSlices: where a Service's workloads are, as the cluster or a file says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Fact, ObjectName};
use crate::resource::Name;

/// One slice of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name.
    pub name: ObjectName,
    /// Its Service, in the same namespace.
    pub service: ObjectName,
    /// TCP ports that every endpoint has.
    pub ports: Vec<SlicePort>,
    /// Those that serve.
    pub endpoints: Vec<SliceEndpoint>,
    /// The service account of endpoints that name no known Pod.
    pub account: Option<Name>,
}

/// A port of every endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: Name,
    /// Its number; `None`: the Service port's own target.
    pub port: Option<u16>,
}

/// An endpoint that is ready, or still serves while it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its first address: the others name the same workload.
    pub address: IpAddr,
    /// Takes new requests.
    pub ready: bool,
    /// Topology zone; empty: unknown.
    pub zone: Name,
    /// The zone whose callers the cluster hints it to: its own if that is among them, else the first.
    pub hint: Option<Name>,
    /// The Pod behind it.
    pub pod: Option<ObjectName>,
}

impl Slice {
    pub(super) fn facts(&self) -> BTreeSet<Fact> {
        let mut facts = BTreeSet::from([Fact::Slices(self.service.clone())]);
        for endpoint in &self.endpoints {
            facts.insert(Fact::SlicesAt(endpoint.address));
            facts.extend(endpoint.pod.clone().map(Fact::SlicesOfPod));
        }
        facts
    }
}
