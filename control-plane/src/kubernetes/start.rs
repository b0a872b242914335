//! The parts of a control plane in a cluster, from top to bottom.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::status::Writer;
use super::{Cluster, leader, root, trust, watch, webhook};
use crate::app::{Foundation, Shared, StartError};
use crate::config::Config;
use crate::tokens::TokenChecker;

/// The condition that holds once every kind has been read and published.
pub(crate) const READ: &str = "objects";

/// What has to hold before a control plane in a cluster is ready. Each part names its own.
pub(crate) fn conditions() -> Vec<&'static str> {
    watch::conditions().chain([READ]).collect()
}

/// The root, and who reviews tokens.
pub(crate) async fn foundation(config: &Config, cluster: &Cluster) -> Foundation {
    Foundation {
        authority: root::open(cluster, &config.trust_domain).await,
        tokens: TokenChecker::Cluster(cluster.reviewer.clone()),
    }
}

/// Starts everything that talks to the API server.
pub(crate) fn parts(cluster: &Cluster, shared: &Shared, tasks: &mut JoinSet<()>) -> Result<(), StartError> {
    watch::start(cluster, shared, tasks);
    let (leadership, standing) = leader::stand(cluster, shared.ending.clone());
    shared.farewells.spawn(standing);
    tasks.spawn(trust::publish(
        cluster.clone(),
        Arc::clone(&shared.issuing),
        leadership.clone(),
    ));
    tasks.spawn(Writer::new(cluster, shared.publisher.clone(), leadership.clone()).run());
    webhook::start(cluster, shared, leadership, tasks)
}
