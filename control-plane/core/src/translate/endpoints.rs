//! Endpoints: where a Service's port is served.
//!
//! They come from slices and from registered workloads. A registered workload is an endpoint of
//! - every Service port that it registers for, and
//! - a Service port that it doesn't register for, if the Service selects the workload's labels, *refines* a Service
//!   that the workload registers for (its selector contains that one's whole selector, which is not empty), and both
//!   ports lead to the same target port. So `product-v1` (`app: product, version: v1`) finds the first version's
//!   replicas among those that registered for `product` (`app: product`).
//!
//! Labels are the workload's own word, so they may only narrow what its token grants: without "refines", a workload
//! could label itself into any Service of its namespace.
//!
//! A cluster's hints, by which it hands endpoints to zones, count as they do for kube-proxy: when every endpoint that
//! takes new requests has one. Then an endpoint is in the zone that it is hinted to, and callers of a zone that has any
//! prefer those. Hints to single nodes are not followed: they come with hints to the node's zone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::Context;
use super::attach::Destination;
use crate::names::Authority;
use crate::resource::{Endpoint, Endpoints, Name};
use crate::world::service::TargetPort;
use crate::world::slice::{Slice, SliceEndpoint, SlicePort};
use crate::world::workload::{Pod, Workload};
use crate::world::{Fact, ObjectName};

/// The share of an endpoint where nothing else is said.
const DEFAULT_WEIGHT: u32 = 1;

/// The endpoints of a Service's port, or of a single address.
pub fn translate(context: &mut Context<'_>, authority: &Authority) -> Option<Endpoints> {
    let endpoints = match authority {
        Authority::Service(service, port) => {
            let destination = Destination::find(context, service, *port)?;
            of(context, destination).endpoints
        }
        Authority::Address(_) => vec![at(context, authority)?.1],
    };
    Some(Endpoints { endpoints })
}

/// What is behind a Service's port.
pub struct Found {
    /// Its endpoints, ascending by address, none twice.
    pub endpoints: Vec<Endpoint>,
    /// Whether the cluster's hints say which zone each is for.
    pub hinted: bool,
}

/// The endpoints of a Service's port.
pub fn of(context: &mut Context<'_>, destination: Destination<'_>) -> Found {
    let service = destination.service;
    let mut endpoints = Vec::new();
    let mut hints = Hints::default();
    for slice in context.world.slices(Fact::Slices(service.name.clone())) {
        let numbers = slice
            .ports
            .iter()
            .filter(|port| port.name == destination.port.name);
        for port in numbers.filter_map(|port| number(port, destination)) {
            slice.endpoints.iter().for_each(|found| hints.take(found, port));
            endpoints.extend(
                slice
                    .endpoints
                    .iter()
                    .filter_map(|found| from_slice(context, slice, found, port)),
            );
        }
    }
    for workload in context
        .world
        .workloads(Fact::WorkloadsIn(service.name.namespace.clone()))
    {
        let ports = if workload.healthy {
            served(context, workload, destination)
        } else {
            Vec::new()
        };
        hints.missing |= workload.ready && !ports.is_empty();
        endpoints.extend(ports.into_iter().map(|port| from_workload(workload, port)));
    }
    let hinted = hints.apply(&mut endpoints);
    one_family(&mut endpoints, service.ipv6_first);
    // One address, one endpoint: ready before draining, meshed before not.
    endpoints.sort_by(|a, b| {
        (a.address, !a.ready, a.identity.is_none(), a).cmp(&(b.address, !b.ready, b.identity.is_none(), b))
    });
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    Found { endpoints, hinted }
}

/// The zones that endpoints are hinted to.
#[derive(Default)]
struct Hints {
    zones: BTreeMap<SocketAddr, Name>,
    /// Whether one that takes new requests is hinted nowhere.
    missing: bool,
}

impl Hints {
    fn take(&mut self, found: &SliceEndpoint, port: u16) {
        match &found.hint {
            Some(zone) => drop(
                self.zones
                    .insert(SocketAddr::new(found.address, port), zone.clone()),
            ),
            None => self.missing |= found.ready,
        }
    }

    /// Moves endpoints to the zones that they are hinted to, if the hints count.
    fn apply(&self, endpoints: &mut [Endpoint]) -> bool {
        if self.missing || self.zones.is_empty() {
            return false;
        }
        for endpoint in endpoints {
            if let Some(zone) = self.zones.get(&endpoint.address) {
                endpoint.zone = zone.clone();
            }
        }
        true
    }
}

/// A Pod with addresses of both families is in two slices, and still one workload: the Service's first family counts.
fn one_family(endpoints: &mut Vec<Endpoint>, ipv6_first: bool) {
    let first = |endpoint: &Endpoint| endpoint.address.is_ipv6() == ipv6_first;
    if endpoints.iter().all(first) || !endpoints.iter().any(first) {
        return;
    }
    let workload = |endpoint: &Endpoint| (endpoint.workload.clone(), endpoint.address.port());
    let reached: BTreeSet<_> = endpoints
        .iter()
        .filter(|found| first(found))
        .map(workload)
        .collect();
    endpoints.retain(|found| first(found) || !reached.contains(&workload(found)));
}

/// The endpoint at an address, and the Service port that it serves, if any. Meshed before not, served before not, then
/// by the Service's name.
pub fn at<'w>(
    context: &mut Context<'w>,
    authority: &Authority,
) -> Option<(Option<Destination<'w>>, Endpoint)> {
    let Authority::Address(address) = authority else {
        return None;
    };
    let mut found = in_slices(context, *address);
    for workload in context.world.workloads(Fact::WorkloadsAt(address.ip())) {
        for port in workload
            .ports
            .iter()
            .filter(|port| port.listen_port == address.port())
        {
            let service = ObjectName {
                namespace: workload.node.namespace.clone(),
                name: port.service.clone(),
            };
            let owner = Destination::find(context, &service, port.service_port);
            found.push((owner, from_workload(workload, port.listen_port)));
        }
    }
    for pod in context.world.pods(Fact::PodsAt(address.ip())) {
        let identity = identity(context, pod, address.port());
        found.push((None, endpoint(*address, true, "".into(), identity, &pod.name)));
    }
    found.into_iter().min_by(|a, b| order(a).cmp(&order(b)))
}

type Order<'a> = (bool, bool, Option<(&'a ObjectName, u16)>, &'a Endpoint);

fn order<'a>((owner, endpoint): &'a (Option<Destination<'_>>, Endpoint)) -> Order<'a> {
    let named = owner.map(|owner| (&owner.service.name, owner.port.port));
    (endpoint.identity.is_none(), owner.is_none(), named, endpoint)
}

fn in_slices<'w>(context: &mut Context<'w>, address: SocketAddr) -> Vec<(Option<Destination<'w>>, Endpoint)> {
    let mut found = Vec::new();
    for slice in context.world.slices(Fact::SlicesAt(address.ip())) {
        for port in &slice.ports {
            let owner = Destination::find_named(context, &slice.service, &port.name);
            let number = port.port.or_else(|| owner.and_then(|owner| number(port, owner)));
            if number != Some(address.port()) {
                continue;
            }
            let here = slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.address == address.ip());
            let here = here.filter_map(|here| from_slice(context, slice, here, address.port()));
            found.extend(here.map(|here| (owner, here)));
        }
    }
    found
}

/// The number of a slice's port: its own, or else its Service port's target.
fn number(port: &SlicePort, destination: Destination<'_>) -> Option<u16> {
    port.port.or(match destination.port.target {
        TargetPort::Number(number) => Some(number),
        TargetPort::Name(_) => None,
    })
}

/// The ports that a workload serves for a Service's port, ascending: see the module's head.
pub fn served(context: &mut Context<'_>, workload: &Workload, destination: Destination<'_>) -> Vec<u16> {
    let (service, port) = (destination.service, destination.port);
    let registers = |name: &Name| workload.ports.iter().any(|served| served.service == *name);
    if registers(&service.name.name) {
        let own = workload
            .ports
            .iter()
            .filter(|own| own.service == service.name.name && own.service_port == port.port);
        return own.map(|own| own.listen_port).collect();
    }
    if !service.selects(&workload.labels) {
        return Vec::new();
    }
    let narrowed = workload.ports.iter().filter(|served| {
        let wide = ObjectName {
            namespace: workload.node.namespace.clone(),
            name: served.service.clone(),
        };
        Destination::find(context, &wide, served.service_port)
            .is_some_and(|wide| service.refines(wide.service) && wide.port.target == port.target)
    });
    narrowed
        .map(|served| served.listen_port)
        .min()
        .into_iter()
        .collect()
}

/// Who serves a Pod's port; `None`: nobody of the mesh.
fn identity(context: &Context<'_>, pod: &Pod, port: u16) -> Option<Name> {
    let meshed = !pod.skips(port);
    meshed.then(|| context.settings.identity(&pod.name.namespace, &pod.account))
}

/// `None`: nobody knows yet whether it is in the mesh.
fn from_slice(
    context: &mut Context<'_>,
    slice: &Slice,
    found: &SliceEndpoint,
    port: u16,
) -> Option<Endpoint> {
    let pod = found.pod.as_ref().and_then(|pod| context.world.pod(pod));
    let identity = match (pod, &found.pod) {
        (Some(pod), _) => identity(context, pod, port),
        (None, Some(pod)) if context.world.is_outsider(pod) => None,
        (None, Some(_)) if context.world.pods_told() => return None,
        (None, _) => {
            let account = slice.account.as_ref();
            account.map(|account| context.settings.identity(&slice.name.namespace, account))
        }
    };
    let address = SocketAddr::new(found.address, port);
    Some(endpoint(
        address,
        found.ready,
        found.zone.clone(),
        identity,
        found.pod.as_ref().unwrap_or(&slice.name),
    ))
}

fn from_workload(workload: &Workload, port: u16) -> Endpoint {
    let address = SocketAddr::new(workload.address, port);
    endpoint(
        address,
        workload.ready,
        workload.zone.clone(),
        Some(workload.identity.clone()),
        &workload.node,
    )
}

fn endpoint(
    address: SocketAddr,
    ready: bool,
    zone: Name,
    identity: Option<Name>,
    workload: &ObjectName,
) -> Endpoint {
    Endpoint {
        address,
        weight: DEFAULT_WEIGHT,
        ready,
        zone,
        identity,
        workload: workload.to_string().into(),
    }
}

/// Whether an address can be an endpoint's at all: nobody can be reached at "any" or at a group.
pub fn dialable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}
