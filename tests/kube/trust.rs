//! The trust bundle where it is needed, and nowhere else. In an API server of its own: it is watched everywhere.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_control_plane::kubernetes::leader::stand;
use weft_control_plane::kubernetes::trust::{CONFIG_MAP, KEY, publish};
use weft_tests::kube::{Kubernetes, until, until_gone};

use crate::forged;

#[tokio::test]
async fn the_bundle_is_where_the_mesh_is() {
    let kubernetes = Kubernetes::start();
    let own = kubernetes.namespace("weft").await;
    let [labelled, with_a_pod, neither] = [
        kubernetes.namespace("a").await,
        kubernetes.namespace("b").await,
        kubernetes.namespace("c").await,
    ];
    let cluster = kubernetes.place(&own, "replica").await;
    let issuing = forged::issuing();
    let ending = CancellationToken::new();
    let (leadership, standing) = stand(&cluster, ending.clone());
    let _standing = tokio::spawn(standing);
    let distributed = watch::channel(None).0;
    let publishing = tokio::spawn(publish(cluster.clone(), issuing.clone(), leadership, distributed));
    cluster.meshing.change(|meshed| {
        for name in [&own, &labelled, &with_a_pod, &neither] {
            meshed.namespace_applied(name.as_str().into(), name == &labelled, false);
        }
        meshed.pod_applied(&with_a_pod.as_str().into(), &"pod".into(), true);
    });
    cluster.meshing.publish();

    let client = kubernetes.client().await;
    let maps = |namespace: &str| Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let bundle = issuing.bundle().to_pem();
    let is_right = |map: &ConfigMap| {
        map.data
            .as_ref()
            .is_some_and(|data| data.get(KEY) == Some(&bundle))
    };
    for namespace in [&own, &labelled, &with_a_pod] {
        until(maps(namespace), CONFIG_MAP, "right", is_right).await;
    }
    assert!(
        maps(&neither)
            .get_opt(CONFIG_MAP)
            .await
            .expect("readable")
            .is_none()
    );

    let edit = Patch::Merge(json!({ "data": { KEY: "nonsense" } }));
    maps(&labelled)
        .patch(CONFIG_MAP, &PatchParams::default(), &edit)
        .await
        .expect("edited");
    until(maps(&labelled), CONFIG_MAP, "put right", is_right).await;
    maps(&labelled)
        .delete(CONFIG_MAP, &DeleteParams::default())
        .await
        .expect("deleted");
    until(maps(&labelled), CONFIG_MAP, "made again", is_right).await;

    // The pod goes, the label goes: so does the bundle.
    cluster.meshing.change(|meshed| {
        meshed.pod_deleted(&with_a_pod, "pod");
        meshed.namespace_applied(labelled.as_str().into(), false, false);
    });
    cluster.meshing.publish();
    until_gone(maps(&with_a_pod), CONFIG_MAP).await;
    until_gone(maps(&labelled), CONFIG_MAP).await;
    until(maps(&own), CONFIG_MAP, "left alone", is_right).await;
    assert!(!publishing.is_finished());
    ending.cancel();
}
