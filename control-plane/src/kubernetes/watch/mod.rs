//! Watching the cluster: every kind that the mesh reads, from the API server into the publisher.
//!
//! One task per kind lists and watches ([`follow`]), and hands on what differs from what it held ([`relist`]): nothing
//! is ever taken away because something failed, only because a complete list, a deletion or the kind's own removal
//! said so. [`collect`] puts the kinds together: it feeds the publisher, says what can't be used, and counts which
//! kinds have been read.
//!
//! The list and the watch are our own, on the client's requests. The client's ready-made watcher does not say when a
//! streaming list begins anew, so that two halves of different lists become one; it tries a version for ever that the
//! server answers with 410 or 504; and it does not notice a server whose store was put back to an older state, from
//! which a watch of a newer version hears nothing.
//!
//! [`relist`]: weft_control_plane_core::relist

mod api;
mod change;
mod collect;
mod decode;
mod follow;
mod kinds;
mod members;
#[cfg(test)]
mod tests;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Cluster;
use crate::app::Shared;
use api::Source;
use collect::Collector;
use follow::{Follower, Presence};
use kinds::Watched;
use members::Members;

pub(crate) use kinds::conditions;

/// Changes that wait for the collector; beyond it the watches wait, and with them the API server.
const CHANGES_MAX: usize = 64;

/// Starts watching everything.
pub(crate) fn start(cluster: &Cluster, shared: &Shared, tasks: &mut JoinSet<()>) {
    let (changes, news) = mpsc::channel(CHANGES_MAX);
    let (definitions, presence) = watch::channel(None);
    for kind in Watched::ALL {
        let source = Source::new(cluster.client.clone(), kind);
        let presence = kind
            .definition()
            .map(|name| Presence::new(name, presence.clone()));
        tasks.spawn(Follower::new(source, presence, changes.clone()).run());
    }
    let members = Members::new(cluster.meshing.clone(), cluster.reviewer.clone());
    let collector = Collector::new(
        shared.publisher.clone(),
        shared.health.clone(),
        definitions,
        members,
    );
    tasks.spawn(collector.run(news));
}
