//! The parts of a control plane in a cluster, from top to bottom.

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::watch::channel;
use tokio::task::JoinSet;

use super::status::Writer;
use super::{
    Cluster, cluster_bundle, leader, pod_certificates, replicas, root, rotation, trust, watch, webhook,
};
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

/// Starts everything that talks to the API server, and the injector on its socket, if there is one.
pub(crate) fn parts(
    config: &Config,
    cluster: &Cluster,
    shared: &Shared,
    webhook: Option<TcpListener>,
    tasks: &mut JoinSet<()>,
) -> Result<(), StartError> {
    watch::start(cluster, shared, tasks);
    let issuing = || Arc::clone(&shared.issuing);
    let (leadership, standing) = leader::stand(cluster, shared.ending.clone());
    shared.farewells.spawn(standing);
    let (others, asking) = replicas::follow(cluster.clone(), issuing());
    tasks.spawn(asking);
    let (sender, distributed) = channel(None);
    tasks.spawn(trust::publish(
        cluster.clone(),
        issuing(),
        leadership.clone(),
        sender,
    ));
    tasks.spawn(cluster_bundle::publish(
        cluster.clone(),
        issuing(),
        leadership.clone(),
    ));
    if cluster.pod_certificates {
        tasks.spawn(pod_certificates::sign(
            cluster.clone(),
            issuing(),
            leadership.clone(),
        ));
    }
    let follower = root::Follower {
        cluster: cluster.clone(),
        issuing: issuing(),
        publisher: shared.publisher.clone(),
        others: others.clone(),
        leaf_lifetime: config.leaf_lifetime,
    };
    let (secret, following) = follower.follow();
    tasks.spawn(following);
    let rotation = rotation::Driver {
        cluster: cluster.clone(),
        issuing: issuing(),
        publisher: shared.publisher.clone(),
        leadership: leadership.clone(),
        others: others.clone(),
        distributed,
        leaf_lifetime: config.leaf_lifetime,
    };
    tasks.spawn(rotation.run(secret));
    let writer = Writer::new(cluster, shared.publisher.clone(), leadership.clone(), others);
    tasks.spawn(writer.run());
    webhook::start(cluster, shared, webhook, leadership, tasks)
}
