//! The control plane in a cluster: what it reads from the API server and what it writes there.
//!
//! [`start`] puts the parts together, from top to bottom; each has a file of its own. Decisions are in the core.

pub mod cluster_bundle;
pub mod leader;
pub mod meshing;
pub mod owner;
pub mod pod_certificates;
pub mod replicas;
pub mod review;
pub mod root;
pub mod rotation;
pub mod start;
pub mod status;
pub mod trust;
mod watch;
pub mod webhook;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use tokio::sync::OnceCell;

pub use weft_control_plane_core::ingest::contradictions;

use self::meshing::Meshing;
use self::review::Reviewer;
use crate::config::InCluster;

/// The label that says who manages an object, and what it says on ours.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "weft-control-plane");

/// Who writes, in `managedFields` and wherever a controller has to be named.
pub const FIELD_MANAGER: &str = "weft.dev/control-plane";

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
    /// Whether somebody else makes the root's Secret.
    pub supplied_root: bool,
    /// Whether requests for pods' certificates are answered.
    pub pod_certificates: bool,
    /// Reviews tokens.
    pub reviewer: Arc<Reviewer>,
    /// Which namespaces are meshed.
    pub meshing: Arc<Meshing>,
    owner_reference: Arc<OnceCell<Option<OwnerReference>>>,
    /// Values of the injector; `None`: there is none.
    pub injection: Option<Arc<Path>>,
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
            reviewer: Arc::new(Reviewer::new(client.clone())),
            meshing: Arc::default(),
            owner_reference: Arc::default(),
            client,
            namespace: Arc::clone(&settings.namespace),
            pod: Arc::clone(&settings.pod),
            service: Arc::clone(&settings.service),
            owner: Arc::clone(&settings.owner),
            supplied_root: settings.supplied_root,
            pod_certificates: settings.pod_certificates,
            injection: settings.injection.as_deref().map(Arc::from),
        }
    }

    /// Whether the API server has the resource `plural` in this version of a group.
    pub async fn serves(&self, group_version: &str, plural: &str) -> kube::Result<bool> {
        match self.client.list_api_group_resources(group_version).await {
            Ok(known) => Ok(known.resources.iter().any(|resource| resource.name == plural)),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The reference to the owner of what is made at run time, once the API server answers; see [`owner`].
    pub async fn owner_reference(&self) -> Option<OwnerReference> {
        let found = self.owner_reference.get_or_init(|| owner::find(self)).await;
        found.clone()
    }
}

/// The labels of what is made at run time.
pub(crate) fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
        ("app.kubernetes.io/part-of".to_owned(), "weft".to_owned()),
    ])
}
