//! The trust bundle once more, for whoever mounts it by its signer's name: `weft.dev:mesh:roots`, a `ClusterTrustBundle`,
//! where the cluster serves such objects. The leader writes it, and looks after it every minute.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1beta1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::MissedTickBehavior;
use weft_control_plane_core::pod_certificate::SIGNER;

use super::leader::{Leadership, WriteError};
use super::{Cluster, FIELD_MANAGER, labels};
use crate::certificates::Issuing;

/// Name of the object.
pub const NAME: &str = "weft.dev:mesh:roots";

/// The API it belongs to, and its resource there.
const API: (&str, &str) = ("certificates.k8s.io/v1beta1", "clustertrustbundles");

/// Between two looks.
const INTERVAL: Duration = Duration::from_mins(1);

/// Keeps it right, for ever.
pub async fn publish(cluster: Cluster, issuing: Arc<Issuing>, leadership: Leadership) {
    let (mut roots, mut leads) = (issuing.changes(), leadership.changes());
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // The senders outlive this task.
            _ = roots.changed() => {}
            _ = leads.changed() => {}
        }
        if !leadership.held() {
            continue;
        }
        match put_right(&cluster, &leadership, &issuing.bundle().to_pem()).await {
            Ok(()) => {}
            Err(error) if error.is_conflict() => ticks.reset_immediately(),
            Err(error) => tracing::warn!(%error, "ClusterTrustBundle {NAME} is not right; it is tried again"),
        }
    }
}

async fn put_right(cluster: &Cluster, leadership: &Leadership, pem: &str) -> Result<(), WriteError> {
    if !cluster.serves(API.0, API.1).await? {
        return Ok(());
    }
    let bundles: Api<ClusterTrustBundle> = Api::all(cluster.client.clone());
    let Some(bundle) = bundles.get_opt(NAME).await? else {
        let made = new_bundle(cluster, pem).await;
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        return leadership.write(bundles.create(&params, &made)).await.map(drop);
    };
    if bundle.spec.trust_bundle == pem {
        return Ok(());
    }
    let patch = Patch::Merge(json!({
        "metadata": { "resourceVersion": bundle.resource_version() },
        "spec": { "trustBundle": pem },
    }));
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    leadership
        .write(bundles.patch(NAME, &params, &patch))
        .await
        .map(drop)
}

async fn new_bundle(cluster: &Cluster, pem: &str) -> ClusterTrustBundle {
    ClusterTrustBundle {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some(labels()),
            owner_references: cluster.owner_reference().await.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: ClusterTrustBundleSpec {
            signer_name: Some(SIGNER.to_owned()),
            trust_bundle: pem.to_owned(),
        },
    }
}
