//! Who leads, by the Lease `weft-control-plane`: the shell around [`weft_control_plane_core::leader`].
//!
//! Whoever writes for all replicas does so through [`Leadership::write`]: it begins only if the lease lasts longer than a
//! write may take, and gives up after that. What is written names the version that it replaces, so that even a request
//! that lay somewhere for a minute replaces nothing newer. The clock goes on while the machine sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as KubeLease, LeaseSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_control_plane_core::leader::{Candidate, Claim, INTERVAL, LEASE, Lease, Step};
use weft_control_plane_core::time::Now;

use super::{Cluster, labels};

/// Name of the Lease.
pub const LEASE_NAME: &str = "weft-control-plane";

/// How long a request about the lease may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a write of the leader may take.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long giving the lease up may take when the process ends.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// A write of the leader was not made, or its end isn't known.
#[derive(Debug, Error)]
pub enum WriteError {
    /// Another replica leads, or may soon.
    #[error("another replica leads by now, or nobody does")]
    NotLeading,
    /// No answer.
    #[error("the API server did not answer within {WRITE_TIMEOUT:?}")]
    TimedOut,
    /// The API server refused.
    #[error("{0}")]
    Refused(#[from] kube::Error),
}

impl WriteError {
    /// Whether somebody else wrote the object since it was read: the next attempt knows better.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists())
    }

    /// Whether the object, or its namespace, isn't there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(kube::Error::Api(status)) if status.is_not_found())
    }
}

/// Whether this process leads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Nanoseconds of the boot clock; 0: it doesn't lead.
    held_until: AtomicU64,
    leads: watch::Sender<bool>,
}

impl Leadership {
    fn new() -> Self {
        Self(Arc::new(Shared {
            held_until: AtomicU64::new(0),
            leads: watch::Sender::new(false),
        }))
    }

    /// Whether it leads at this moment.
    pub fn held(&self) -> bool {
        boot_now() < self.until()
    }

    /// Follows whether it leads. What follows may lag: [`Leadership::write`] doesn't.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.0.leads.subscribe()
    }

    /// Makes a write, if this process leads for longer than the write may take.
    pub async fn write<T>(&self, write: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
        if boot_now() + WRITE_TIMEOUT >= self.until() {
            return Err(WriteError::NotLeading);
        }
        let written = tokio::time::timeout(WRITE_TIMEOUT, write).await;
        Ok(written.map_err(|_| WriteError::TimedOut)??)
    }

    fn until(&self) -> Now {
        Now::from_nanos(self.0.held_until.load(Ordering::Acquire))
    }

    fn set(&self, candidate: &Candidate) {
        let until = candidate.held_until().map_or(0, Now::as_nanos);
        self.0.held_until.store(until, Ordering::Release);
        let leads = candidate.leads(boot_now());
        let changed = self
            .0
            .leads
            .send_if_modified(|before| std::mem::replace(before, leads) != leads);
        if changed {
            tracing::info!(leads, "leadership");
        }
    }
}

/// This moment of the boot clock, which also counts while the machine sleeps.
fn boot_now() -> Now {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Now::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Makes the handle, and the task that stands for election until `ending`, and then gives the lease up.
pub fn stand(
    cluster: &Cluster,
    ending: CancellationToken,
) -> (Leadership, impl Future<Output = ()> + Send + use<>) {
    let leadership = Leadership::new();
    let election = Election {
        leases: Api::namespaced(cluster.client.clone(), &cluster.namespace),
        cluster: cluster.clone(),
        id: format!("{}_{:08x}", cluster.pod, random()),
        leadership: leadership.clone(),
    };
    (leadership, election.run(ending))
}

/// Tells apart two processes of one Pod: a container that was restarted is a new candidate.
fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness the process could not have made its TLS keys either.
    let _ = weft_identity::tls::provider().secure_random.fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

struct Election {
    leases: Api<KubeLease>,
    cluster: Cluster,
    id: String,
    leadership: Leadership,
}

impl Election {
    async fn run(self, ending: CancellationToken) {
        let mut candidate = Candidate::new(self.id.as_str().into(), boot_now());
        while ending
            .run_until_cancelled(self.turn(&mut candidate))
            .await
            .is_some()
        {
            self.leadership.set(&candidate);
        }
        let claim = candidate.release();
        self.leadership.set(&candidate);
        if let Some(claim) = claim {
            // A lease that isn't given up ends by itself.
            let _ = tokio::time::timeout(RELEASE_TIMEOUT, self.write(&claim)).await;
        }
    }

    async fn turn(&self, candidate: &mut Candidate) {
        let now = boot_now();
        match candidate.step(now) {
            Step::Wait(until) => {
                // While it leads it has to notice the end of that, too.
                let end = candidate.held_until().filter(|end| now < *end);
                let until = end.map_or(until, |end| until.min(end));
                tokio::time::sleep(until.since(now).clamp(Duration::from_millis(1), INTERVAL)).await;
            }
            Step::Read => {
                match tokio::time::timeout(REQUEST_TIMEOUT, self.leases.get_opt(LEASE_NAME)).await {
                    Ok(Ok(lease)) => candidate.read(lease.as_ref().map(read), boot_now()),
                    Ok(Err(error)) => self.failed(candidate, false, &error),
                    Err(error) => self.failed(candidate, false, &error),
                }
            }
            Step::Write(claim) => match tokio::time::timeout(REQUEST_TIMEOUT, self.write(&claim)).await {
                Ok(Ok(version)) => candidate.granted(claim, version.as_str().into(), now),
                Ok(Err(kube::Error::Api(status)))
                    if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
                {
                    candidate.conflict(boot_now());
                }
                Ok(Err(error)) => self.failed(candidate, true, &error),
                Err(error) => self.failed(candidate, true, &error),
            },
        }
    }

    fn failed(&self, candidate: &mut Candidate, wrote: bool, error: &dyn std::fmt::Display) {
        tracing::warn!(id = self.id, %error, "the lease {LEASE_NAME} can't be used now; it is tried again");
        candidate.failed(wrote, boot_now());
    }

    /// Writes a claim over the version that it names; returns the version that it has then.
    async fn write(&self, claim: &Claim) -> kube::Result<String> {
        // A lease takes microseconds, exactly.
        let now = format!("{:.6}", Timestamp::now());
        let mut spec = json!({
            "holderIdentity": claim.holder.as_deref(),
            "leaseDurationSeconds": LEASE.as_secs(),
            "leaseTransitions": claim.transitions,
            "renewTime": claim.holder.is_some().then_some(&now),
        });
        if claim.acquires {
            spec["acquireTime"] = json!(now);
        }
        let written = match &claim.over {
            Some(version) => {
                let patch = json!({ "metadata": { "resourceVersion": &**version }, "spec": spec });
                let patch = Patch::Merge(patch);
                self.leases
                    .patch(LEASE_NAME, &PatchParams::default(), &patch)
                    .await?
            }
            None => {
                self.leases
                    .create(&PostParams::default(), &self.new_lease(spec).await?)
                    .await?
            }
        };
        Ok(written.resource_version().unwrap_or_default())
    }

    async fn new_lease(&self, spec: serde_json::Value) -> kube::Result<KubeLease> {
        Ok(KubeLease {
            metadata: ObjectMeta {
                name: Some(LEASE_NAME.to_owned()),
                labels: Some(labels()),
                owner_references: self.cluster.owner_reference().await.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: serde_json::from_value(spec).map_err(kube::Error::SerdeError)?,
        })
    }
}

fn read(lease: &KubeLease) -> Lease {
    let default = LeaseSpec::default();
    let spec = lease.spec.as_ref().unwrap_or(&default);
    Lease {
        version: lease.resource_version().unwrap_or_default().as_str().into(),
        holder: spec
            .holder_identity
            .as_deref()
            .filter(|id| !id.is_empty())
            .map(Into::into),
        transitions: u32::try_from(spec.lease_transitions.unwrap_or(0)).unwrap_or(0),
    }
}
