//! Several replicas, one leader.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio_util::sync::CancellationToken;
use weft_control_plane::kubernetes::leader::{LEASE_NAME, Leadership, WriteError, stand};
use weft_tests::kube::{Kubernetes, PATIENCE};

struct Replica {
    leadership: Leadership,
    ending: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Replica {
    async fn start(kubernetes: &Kubernetes, namespace: &str, pod: &str) -> Self {
        let cluster = kubernetes.place(namespace, pod).await;
        let ending = CancellationToken::new();
        let (leadership, standing) = stand(&cluster, ending.clone());
        Self {
            leadership,
            ending,
            task: tokio::spawn(standing),
        }
    }

    async fn leads(&self) {
        let mut changes = self.leadership.changes();
        let leads = tokio::time::timeout(PATIENCE, changes.wait_for(|leads| *leads)).await;
        leads.expect("somebody leads").expect("it stands");
    }
}

#[tokio::test]
async fn one_leads_until_it_ends_or_is_lost() {
    let kubernetes = Kubernetes::shared();
    let namespace = kubernetes.namespace("leader").await;
    let leases: Api<Lease> = Api::namespaced(kubernetes.client().await, &namespace);
    let first = Replica::start(kubernetes, &namespace, "first").await;
    first.leads().await;
    let second = Replica::start(kubernetes, &namespace, "second").await;
    let read = first
        .leadership
        .write(leases.get(LEASE_NAME))
        .await
        .expect("the leader writes");
    let holder = read
        .spec
        .and_then(|spec| spec.holder_identity)
        .unwrap_or_default();
    assert!(holder.starts_with("first_"), "{holder}");
    let refused = second.leadership.write(leases.get(LEASE_NAME)).await;
    assert!(matches!(refused, Err(WriteError::NotLeading)), "{refused:?}");

    // One that ends gives the lease up: the other doesn't wait for it to run out.
    let begun = Instant::now();
    first.ending.cancel();
    second.leads().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    first.task.await.expect("it ended by itself");
    assert!(!first.leadership.held());

    // One that is lost, without a word: the next leads once the lease has run out, and not before it stopped leading.
    let third = Replica::start(kubernetes, &namespace, "third").await;
    second.task.abort();
    third.leads().await;
    assert!(!second.leadership.held(), "two lead at once");
    let refused = second.leadership.write(leases.get(LEASE_NAME)).await;
    assert!(matches!(refused, Err(WriteError::NotLeading)), "{refused:?}");
    let lease = leases
        .get(LEASE_NAME)
        .await
        .expect("the lease")
        .spec
        .expect("its spec");
    assert_eq!(lease.lease_transitions, Some(2));
    third.ending.cancel();
    third.task.await.expect("it ends");
    let lease = leases
        .get(LEASE_NAME)
        .await
        .expect("the lease")
        .spec
        .expect("its spec");
    assert_eq!(lease.holder_identity, None, "given up");
}

#[tokio::test]
async fn a_lease_that_somebody_deletes_is_made_again() {
    let kubernetes = Kubernetes::shared();
    let namespace = kubernetes.namespace("leader").await;
    let leases: Api<Lease> = Api::namespaced(kubernetes.client().await, &namespace);
    let replica = Replica::start(kubernetes, &namespace, "replica").await;
    replica.leads().await;
    let mut changes = replica.leadership.changes();
    changes.mark_unchanged();
    leases
        .delete(LEASE_NAME, &kube::api::DeleteParams::default())
        .await
        .expect("deleted");
    let lost = tokio::time::timeout(PATIENCE, changes.wait_for(|leads| !*leads)).await;
    lost.expect("it notices").expect("it stands");
    replica.leads().await;
    leases.get(LEASE_NAME).await.expect("made again");
    replica.ending.cancel();
    replica.task.await.expect("it ends");
}
