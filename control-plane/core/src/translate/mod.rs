//! From the world to resources: one function per kind, each a pure answer to "what is the resource of this name?".
//!
//! Nothing here is incremental, and nothing lists dependencies: every read goes through the [`Reader`], which notes
//! it. [`crate::catalog`] calls again what read something that changed.

pub mod attach;
pub mod cluster;
pub mod endpoints;
pub mod hints;
pub mod inbound;
pub mod listener;
pub mod route;
pub mod secret;
#[cfg(test)]
mod tests;
pub mod wildcard;

use crate::names::{Authority, HINTS_PREFIX, INBOUND_PREFIX, Settings, WILDCARD};
use crate::resource::{Key, Kind, Name, Resource, View};
use crate::world::{ObjectName, Reader};

/// What a translation works with.
#[derive(Debug)]
pub struct Context<'w> {
    /// The inputs.
    pub world: Reader<'w>,
    /// The mesh's domains.
    pub settings: &'w Settings,
}

/// The resource of this name; `None`: there is none.
pub fn translate(context: &mut Context<'_>, key: &Key) -> Option<Resource> {
    match (key.kind, &key.view) {
        (Kind::Secret, _) => secret::translate(context, &key.name).map(Resource::TrustBundle),
        (Kind::Hints, _) => {
            hints::translate(context, key.name.strip_prefix(HINTS_PREFIX)?).map(Resource::Hints)
        }
        (Kind::Listener, _) if key.name.starts_with(INBOUND_PREFIX) => {
            let node = ObjectName::parse(key.name.strip_prefix(INBOUND_PREFIX)?)?;
            inbound::translate(context, &node).map(Resource::Listener)
        }
        (Kind::Listener, View::Namespace(_)) if &*key.name == WILDCARD => Some(wildcard::listener()),
        (Kind::Route, View::Namespace(viewer)) if &*key.name == WILDCARD => {
            Some(Resource::Route(wildcard::routes(context, viewer)))
        }
        (Kind::Listener, View::Namespace(viewer)) => {
            let authority = authority(context, &key.name)?;
            listener::translate(context, &authority, viewer).map(Resource::Listener)
        }
        (Kind::Route, View::Namespace(viewer)) => {
            let authority = authority(context, &key.name)?;
            route::translate(context, &authority, viewer).map(Resource::Route)
        }
        (Kind::Cluster, _) => {
            let authority = authority(context, &key.name)?;
            cluster::translate(context, &authority).map(Resource::Cluster)
        }
        (Kind::Endpoints, _) => {
            let authority = authority(context, &key.name)?;
            endpoints::translate(context, &authority).map(Resource::Endpoints)
        }
        (Kind::Listener | Kind::Route, View::Shared) => None,
    }
}

/// The names of everything of a kind that a wildcard stands for.
pub fn members(context: &mut Context<'_>, kind: Kind) -> Vec<Name> {
    wildcard::members(context, kind)
}

/// What a key's name names. Keys hold full names, which mean the same in every namespace.
fn authority(context: &Context<'_>, name: &str) -> Option<Authority> {
    context.settings.authority(name, "")
}
