//! Whose the objects are that are made at run time: a cluster-scoped object of the chart. When the chart is uninstalled,
//! the cluster's garbage collector takes them along.

use std::time::Duration;

use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Resource};

use super::Cluster;

/// Between two attempts to ask an API server that doesn't answer.
const PAUSE: Duration = Duration::from_secs(2);

/// The reference to the owner, once the API server answers; `None`: there is no such object (this was not installed by
/// the chart), and what is made stays when the rest goes.
pub async fn find(cluster: &Cluster) -> Option<OwnerReference> {
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    loop {
        match roles.get_opt(&cluster.owner).await {
            Ok(Some(role)) => return role.owner_ref(&()),
            Ok(None) => {
                let owner = &*cluster.owner;
                tracing::warn!(
                    owner,
                    "this ClusterRole is not there: what is made at run time will have no owner"
                );
                return None;
            }
            Err(error) => {
                let owner = &*cluster.owner;
                tracing::warn!(owner, %error, "the API server can't be asked for this ClusterRole; it is tried again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
