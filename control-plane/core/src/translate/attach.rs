//! What is attached to a Service's port: routes, policies, and the protocol that follows from them.

use std::sync::Arc;

use super::Context;
use crate::names::Authority;
use crate::precedence::{in_force, seniority};
use crate::resource::{Name, Protocol};
use crate::world::policy::{TlsPolicy, TlsTarget, TrafficPolicy};
use crate::world::route::{BackendTarget, Parent, Route, RouteKind};
use crate::world::service::{Service, ServicePort};
use crate::world::{Fact, Id, ObjectName};

/// A Service and one of its ports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Destination<'w> {
    /// The Service.
    pub service: &'w Service,
    /// The port.
    pub port: &'w ServicePort,
}

impl<'w> Destination<'w> {
    /// The port of this number, where Service and port exist.
    pub fn find(context: &mut Context<'w>, service: &ObjectName, port: u16) -> Option<Self> {
        let service: &Service = context.world.service(service)?;
        Some(Self {
            service,
            port: service.port(port)?,
        })
    }

    /// The port of this name, where Service and port exist.
    pub fn find_named(context: &mut Context<'w>, service: &ObjectName, port: &str) -> Option<Self> {
        let service: &Service = context.world.service(service)?;
        Some(Self {
            service,
            port: service.ports.iter().find(|found| &*found.name == port)?,
        })
    }

    /// Behind a cluster IP: of several Services that claim it, the senior.
    pub fn at(context: &mut Context<'w>, authority: &Authority) -> Option<Self> {
        let Authority::Address(address) = authority else {
            return None;
        };
        let found = context.world.services(Fact::ClusterIp(address.ip()));
        let with_port = found.filter_map(|service| {
            Some(Self {
                service,
                port: service.port(address.port())?,
            })
        });
        with_port.min_by_key(|found| seniority(found.service.created, &found.service.name))
    }

    /// Its name as a resource.
    pub fn name(&self, context: &Context<'_>) -> Name {
        context.settings.service(&self.service.name, self.port.port)
    }
}

/// Whether a parent means this port.
pub fn means(parent: &Parent, destination: Destination<'_>) -> bool {
    parent.service == destination.service.name
        && parent.port.is_none_or(|port| port == destination.port.port)
        && parent
            .section
            .as_ref()
            .is_none_or(|section| *section == destination.port.name)
}

/// The routes that are attached to a port, for clients of one namespace, or (`None`) for all clients alike. Opaque
/// bytes take no routes.
pub fn routes<'w>(
    context: &mut Context<'w>,
    destination: Destination<'_>,
    viewer: Option<&Name>,
) -> Vec<&'w Route> {
    if !takes_routes(context, destination) {
        return Vec::new();
    }
    let service = &destination.service.name;
    let attached: Vec<&Route> = context
        .world
        .routes(Fact::RoutesOf(service.clone()))
        .map(Arc::as_ref)
        .filter(|route| route.produces(service) || Some(&route.name.namespace) == viewer)
        .filter(|route| route.parents.iter().any(|parent| means(parent, destination)))
        .collect();
    in_force(service, &attached)
}

/// Whether routes have a say about a port: opaque bytes take none.
pub fn takes_routes(context: &mut Context<'_>, destination: Destination<'_>) -> bool {
    destination.port.protocol != Protocol::Tcp && !is_opaque(context, destination)
}

/// How a port speaks: bytes, where a Pod behind it says so of its own port; else what it declares; gRPC where a
/// GRPCRoute is attached; and where nothing is declared, also gRPC where a GRPCRoute of its own namespace leads to it.
/// Routes of other namespaces say nothing about it.
pub fn protocol(context: &mut Context<'_>, destination: Destination<'_>, viewer: Option<&Name>) -> Protocol {
    if is_opaque(context, destination) {
        return Protocol::Tcp;
    }
    let declared = destination.port.protocol;
    let grpc = routes(context, destination, viewer)
        .first()
        .is_some_and(|route| route.kind == RouteKind::Grpc);
    if grpc || (declared == Protocol::Detect && leads_grpc(context, destination)) {
        return Protocol::Grpc;
    }
    declared
}

/// Whether a Pod that the Service selects says that the port which the Service's port leads to carries bytes. Both ends
/// of a connection have to agree, so one Pod's word counts for all that are behind the port.
fn is_opaque(context: &mut Context<'_>, destination: Destination<'_>) -> bool {
    let service = destination.service;
    let mut opaque = context.world.pods(Fact::OpaqueIn(service.name.namespace.clone()));
    opaque.any(|pod| {
        let port = pod.target(&destination.port.target);
        service.selects(&pod.labels) && port.is_some_and(|port| pod.is_opaque(port))
    })
}

/// Whether a GRPCRoute of the Service's namespace has this port for a backend.
fn leads_grpc(context: &mut Context<'_>, destination: Destination<'_>) -> bool {
    let here = BackendTarget::Service(destination.service.name.clone(), destination.port.port);
    let service = &destination.service.name;
    let routes = context.world.routes(Fact::RoutesTo(service.clone()));
    let mut own = routes.filter(|route| route.kind == RouteKind::Grpc && route.produces(service));
    own.any(|route| route.backends().any(|backend| backend.target == here))
}

/// The TrafficPolicy of a port: the senior of those for that port, else the senior of those for the whole Service.
pub fn traffic_policy<'w>(
    context: &mut Context<'w>,
    destination: Destination<'_>,
) -> Option<&'w TrafficPolicy> {
    let service = &destination.service.name;
    let policies: Vec<&TrafficPolicy> = context.world.policies(service).map(Arc::as_ref).collect();
    let targeting = |port: Option<&Name>| {
        let aimed = policies.iter().copied().filter(|policy| {
            policy
                .targets
                .iter()
                .any(|target| target.service == *service && target.port.as_ref() == port)
        });
        aimed.min_by_key(|claim| seniority(claim.created, &claim.name))
    };
    targeting(Some(&destination.port.name)).or_else(|| targeting(None))
}

/// Whether a workload's port lets plaintext in, by the Services that lead to it: what is said of the ports, else of
/// the Services, else of the namespace, else no. Where several Services lead to one port and disagree, no.
pub fn permissive(context: &mut Context<'_>, namespace: &Name, leading: &[Destination<'_>]) -> bool {
    let policies: Vec<&TlsPolicy> = context.world.tls_policies(namespace).map(Arc::as_ref).collect();
    let says = |target: &TlsTarget| {
        let aimed = policies.iter().filter(|policy| policy.targets.contains(target));
        aimed.min_by_key(|claim| seniority(claim.created, &claim.name))
    };
    let of_ports: Vec<_> = leading
        .iter()
        .filter_map(|to| says(&TlsTarget::Port(to.service.name.clone(), to.port.name.clone())))
        .collect();
    let of_services: Vec<_> = leading
        .iter()
        .filter_map(|to| says(&TlsTarget::Service(to.service.name.clone())))
        .collect();
    let of_namespace = says(&TlsTarget::Namespace).into_iter().collect();
    let narrowest = [of_ports, of_services, of_namespace];
    let said = narrowest
        .into_iter()
        .find(|said| !said.is_empty())
        .unwrap_or_default();
    for policy in &said {
        context.world.builds_from(Id::TlsPolicy(policy.name.clone()));
    }
    !said.is_empty() && said.iter().all(|policy| policy.permissive)
}
