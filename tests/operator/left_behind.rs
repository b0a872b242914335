//! An uninstall that comes too early: the pods that still have a sidecar are named, and when their certificates end.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use weft_tests::node::{self, apply, check, forget, meshed_namespace, ready};

use crate::turn::alone;

#[tokio::test]
async fn pods_that_outlive_the_mesh_are_named_with_their_end() {
    let (cluster, _turn) = alone().await;
    node::install(cluster, &[]).await;
    let namespace = meshed_namespace(cluster, "orphan").await;
    apply(cluster, &node::pod(&namespace, "child")).await;
    ready(cluster, &namespace, "child").await;
    node::uninstall(cluster).await;

    let checks = check(cluster, "").await;
    let failed: Vec<_> = checks.iter().filter(|check| check.outcome == "failed").collect();
    let [installed, orphans] = failed[..] else {
        panic!("{failed:#?}")
    };
    assert_eq!(
        (&*installed.name, &*orphans.name),
        ("installed", "orphans"),
        "{failed:#?}"
    );
    let named = format!("{namespace}/child: its certificate ends ");
    let end = orphans
        .says
        .split(&named)
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let end: Timestamp = end
        .and_then(|end| end.parse().ok())
        .unwrap_or_else(|| panic!("{orphans:#?}"));
    let left = end.duration_since(Timestamp::now());
    assert!(
        SignedDuration::from_hours(23) < left && left <= SignedDuration::from_hours(24),
        "{left:?}"
    );
    assert!(orphans.remedy.contains("rollout restart"), "{orphans:#?}");
    forget(cluster, &namespace).await;
}
