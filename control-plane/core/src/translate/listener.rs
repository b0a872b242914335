//! Outbound listeners: what is behind an authority.

use super::attach::{self, Destination};
use super::{Context, endpoints};
use crate::names::Authority;
use crate::resource::{Listener, Name, Protocol};

/// The listener of an authority, for clients of the namespace `viewer`.
///
/// A Service's port and its cluster IP lead to the same routes and cluster. The address of an endpoint leads to that
/// endpoint, past all routes.
pub fn translate(context: &mut Context<'_>, authority: &Authority, viewer: &Name) -> Option<Listener> {
    let destination = match authority {
        Authority::Service(service, port) => Destination::find(context, service, *port),
        Authority::Address(_) => Destination::at(context, authority),
    };
    if let Some(destination) = destination {
        let protocol = attach::protocol(context, destination, Some(viewer));
        return Some(outbound(protocol, destination.name(context)));
    }
    let (owner, _) = endpoints::at(context, authority)?;
    let protocol = owner.map_or(Protocol::Detect, |owner| attach::protocol(context, owner, None));
    Some(outbound(protocol, authority.name(context.settings)))
}

/// Requests go by the routes, opaque bytes to the cluster; both have the destination's name.
fn outbound(protocol: Protocol, name: Name) -> Listener {
    Listener::Outbound {
        protocol,
        routes: (protocol != Protocol::Tcp).then(|| name.clone()),
        cluster: matches!(protocol, Protocol::Tcp | Protocol::Detect).then_some(name),
    }
}
