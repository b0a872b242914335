//! The control plane in a cluster: what it reads from the API server and what it writes there.
//!
//! [`start`] puts the parts together, from top to bottom; each has a file of its own. Decisions are in the core.

pub mod start;
pub mod status;
mod watch;

use std::sync::Arc;

use kube::Client;

use crate::config::InCluster;

/// The cluster, and the control plane's place in it. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    /// Talks to the API server.
    pub client: Client,
    /// The control plane's namespace.
    pub namespace: Arc<str>,
    /// Its pod.
    pub pod: Arc<str>,
    /// Its Service.
    pub service: Arc<str>,
    /// The `ClusterRole` that owns the objects made at run time.
    pub owner: Arc<str>,
}

/// The API server can't be called at all. One that doesn't answer is waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Where it is, or with which rights.
    #[error("no cluster is configured: {0}; run this in a pod with a service account, or set KUBECONFIG")]
    Settings(#[from] kube::config::InferConfigError),
    /// The client.
    #[error("no client for the cluster's API server can be made: {0}")]
    Client(#[from] kube::Error),
}

impl Cluster {
    /// The cluster that this process runs in, or that `KUBECONFIG` names. Calls nobody yet.
    pub async fn connect(settings: &InCluster) -> Result<Self, ConnectError> {
        let config = kube::Config::infer().await?;
        Ok(Self::new(Client::try_from(config)?, settings))
    }

    /// The cluster behind `client`.
    pub fn new(client: Client, settings: &InCluster) -> Self {
        Self {
            client,
            namespace: Arc::clone(&settings.namespace),
            pod: Arc::clone(&settings.pod),
            service: Arc::clone(&settings.service),
            owner: Arc::clone(&settings.owner),
        }
    }
}
