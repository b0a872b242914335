//! Everything that a namespace may see, in one listener with routes by Host: what Envoy's wildcard stands for.
//!
//! Every Service may be seen from everywhere; what differs by namespace are the consumer's routes and the short name.

use std::collections::BTreeSet;

use super::attach::{Destination, takes_routes};
use super::{Context, route};
use crate::names::{WILDCARD, address_name};
use crate::precedence::seniority;
use crate::resource::{Kind, Listener, Name, Resource, RouteTable, VirtualHost};
use crate::world::Fact;

/// The port that a Host without one means.
const HTTP_PORT: u16 = 80;

/// The one listener.
pub fn listener() -> Resource {
    Resource::Listener(Listener::Wildcard {
        routes: WILDCARD.into(),
    })
}

/// The names of everything of a kind.
pub fn members(context: &mut Context<'_>, kind: Kind) -> Vec<Name> {
    match kind {
        Kind::Listener | Kind::Route => vec![WILDCARD.into()],
        Kind::Cluster | Kind::Endpoints => {
            let mut names: Vec<Name> = destinations(context)
                .iter()
                .map(|found| found.name(context))
                .collect();
            names.sort();
            names
        }
        Kind::Secret => vec![context.settings.trust_bundle()],
        Kind::Hints => Vec::new(),
    }
}

/// The route table, as clients of `viewer` see it: one host per Service port that may carry HTTP.
pub fn routes(context: &mut Context<'_>, viewer: &Name) -> RouteTable {
    let mut taken = BTreeSet::new();
    let mut hosts = Vec::new();
    for destination in destinations(context) {
        if !takes_routes(context, destination) {
            continue;
        }
        let mut domains = domains(context, destination, viewer);
        // One cluster IP in two Services: the senior has it.
        domains.retain(|domain| taken.insert(domain.clone()));
        let rules = route::rules(context, destination, viewer);
        hosts.push(VirtualHost {
            name: destination.name(context),
            domains,
            rules,
        });
    }
    hosts.sort_by(|a, b| a.domains.first().cmp(&b.domains.first()));
    RouteTable { hosts }
}

/// Every port of every Service, by seniority.
fn destinations<'w>(context: &mut Context<'w>) -> Vec<Destination<'w>> {
    let mut services: Vec<_> = context.world.services(Fact::Services).collect();
    services.sort_by_key(|claim| seniority(claim.created, &claim.name));
    let ports = services.into_iter().flat_map(|service| {
        service.ports.iter().map(move |port| Destination {
            service: service.as_ref(),
            port,
        })
    });
    ports.collect()
}

/// All ways to name a Service's port in a Host, the full name first.
fn domains(context: &Context<'_>, destination: Destination<'_>, viewer: &Name) -> Vec<Name> {
    let (service, port) = (destination.service, destination.port.port);
    let mut hosts = vec![
        context.settings.host(&service.name),
        format!("{}.{}.svc", service.name.name, service.name.namespace),
        format!("{}.{}", service.name.name, service.name.namespace),
    ];
    if service.name.namespace == *viewer {
        hosts.push(service.name.name.to_string());
    }
    let mut domains: Vec<Name> = hosts.iter().map(|host| format!("{host}:{port}").into()).collect();
    domains.extend(
        service
            .cluster_ips
            .iter()
            .map(|ip| address_name((*ip, port).into())),
    );
    if port == HTTP_PORT {
        domains.extend(hosts.into_iter().map(Name::from));
        domains.extend(service.cluster_ips.iter().map(|ip| match ip {
            std::net::IpAddr::V4(ip) => Name::from(ip.to_string()),
            std::net::IpAddr::V6(ip) => format!("[{ip}]").into(),
        }));
    }
    domains
}
