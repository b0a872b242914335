//! Clusters: how the endpoints of a Service's port are used.

use super::attach::{self, Destination};
use super::{Context, endpoints};
use crate::names::Authority;
use crate::resource::{Cluster, Endpoint, Name, Protocol};
use crate::world::Id;
use crate::world::policy::TrafficSettings;

/// The cluster of a Service's port, or of a single endpoint.
pub fn translate(context: &mut Context<'_>, authority: &Authority) -> Option<Cluster> {
    match authority {
        Authority::Service(service, port) => {
            let destination = Destination::find(context, service, *port)?;
            let found = endpoints::of(context, destination);
            let cluster = cluster(context, Some(destination), &found.endpoints, found.hinted);
            Some(cluster)
        }
        Authority::Address(_) => {
            let (owner, endpoint) = endpoints::at(context, authority)?;
            Some(cluster(context, owner, &[endpoint], false))
        }
    }
}

fn cluster(
    context: &mut Context<'_>,
    destination: Option<Destination<'_>>,
    endpoints: &[Endpoint],
    hinted: bool,
) -> Cluster {
    let mut identities: Vec<Name> = endpoints
        .iter()
        .filter_map(|endpoint| endpoint.identity.clone())
        .collect();
    identities.sort();
    identities.dedup();
    let policy = destination.and_then(|destination| attach::traffic_policy(context, destination));
    if let Some(policy) = policy {
        context.world.builds_from(Id::Policy(policy.name.clone()));
    }
    let says = policy.map_or_else(TrafficSettings::default, |policy| policy.says.clone());
    let closeness = hinted || destination.is_some_and(|destination| destination.service.prefer_zone);
    Cluster {
        protocol: destination.map_or(Protocol::Detect, |destination| {
            attach::protocol(context, destination, None)
        }),
        balancer: says.balancer,
        prefer_zone: says.prefer_zone.unwrap_or(closeness),
        slow_start: says.slow_start,
        connect_timeout: says.connect_timeout,
        max_connections: says.max_connections,
        max_pending: says.max_pending,
        max_requests: says.max_requests,
        outlier: says.outlier,
        endpoint_breaker: says.endpoint_breaker,
        service_breaker: says.service_breaker,
        default_retry: says.retry,
        retry_budget_percent: says.retry_budget_percent,
        retry_budget_floor: says.retry_budget_floor,
        identities,
    }
}
