//! Answers the requests for certificates that kubelets make for pods with a `podCertificate` volume of our signer, where
//! that is switched on and the cluster serves such requests. There it is the kubelet that makes the key.
//!
//! The leader answers, one request after the other has been held against its pod; see
//! [`weft_control_plane_core::pod_certificate`]. An answer is final, so what can't be answered now is left open and tried
//! again. A cluster that doesn't know such requests is asked again whether it does.

mod open;
mod wire;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Pod as KubePod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::timeout;
use weft_api::kubernetes::Time;
use weft_control_plane_core::issue::Refusal;
use weft_control_plane_core::pod_certificate::{Denial, Pod, Request, SIGNER, screen};
use weft_control_plane_core::rights::Account;

use self::open::{Open, Waiting};
use super::leader::{Leadership, WriteError};
use super::{Cluster, FIELD_MANAGER};
use crate::certificates::{IssueError, Issuing};
use crate::config::ACCOUNT;

/// Where such requests are.
const GROUP: &str = "certificates.k8s.io";

/// Their resource there.
const PLURAL: &str = "podcertificaterequests";

/// The versions that are understood, the best first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Between two looks whether the cluster serves them.
const INTERVAL: Duration = Duration::from_secs(10);

/// Requests that are being answered at once.
const AT_ONCE_MAX: usize = 8;

/// For one question to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a request is left open for now.
#[derive(Debug, Error)]
enum Delay {
    /// No leaf can be issued at the moment.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The pod can't be asked for.
    #[error(
        "the API server can't be asked for the pod: {0}; has the control plane's ClusterRole the verb list?"
    )]
    Pod(#[source] kube::Error),
    /// No answer.
    #[error("the API server does not answer within {CALL_TIMEOUT:?}")]
    Silent,
    /// The answer can't be written.
    #[error(
        "{0}; has the control plane's ClusterRole the verbs patch of {PLURAL}/status and sign of signer {SIGNER}?"
    )]
    Write(#[from] WriteError),
}

impl Delay {
    /// How long it is left.
    fn wait(&self) -> Duration {
        match self {
            Self::Issue(IssueError::Refused(Refusal::Rate { wait, .. })) => *wait,
            _ => PAUSE,
        }
    }

    /// Whether it is a part of life.
    fn is_usual(&self) -> bool {
        match self {
            Self::Write(WriteError::NotLeading) => true,
            Self::Write(error) => error.is_conflict(),
            _ => false,
        }
    }
}

/// Answers requests whenever this replica leads, for ever.
pub async fn sign(cluster: Cluster, issuing: Arc<Issuing>, leadership: Leadership) {
    let mut leading = leadership.changes();
    let signer = Signer {
        cluster,
        issuing,
        leadership,
    };
    while leading.wait_for(|leads| *leads).await.is_ok() {
        tokio::select! {
            biased;
            _ = leading.wait_for(|leads| !*leads) => {}
            () = signer.lead() => {}
        }
    }
}

struct Signer {
    cluster: Cluster,
    issuing: Arc<Issuing>,
    leadership: Leadership,
}

impl Signer {
    /// Answers requests wherever the cluster serves them, for ever.
    async fn lead(&self) {
        loop {
            match self.version().await {
                Ok(Some(version)) => self.serve(version).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "the API server can't be asked whether it has {PLURAL}; it is tried again");
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// The version in which the cluster serves such requests.
    async fn version(&self) -> kube::Result<Option<&'static str>> {
        for version in VERSIONS {
            if self.cluster.serves(&format!("{GROUP}/{version}"), PLURAL).await? {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// Answers requests until the cluster serves them no longer.
    async fn serve(&self, version: &str) {
        let kind = GroupVersionKind::gvk(GROUP, version, "PodCertificateRequest");
        let kind = ApiResource::from_gvk_with_plural(&kind, PLURAL);
        let ours = watcher::Config::default().fields(&format!("spec.signerName={SIGNER}"));
        let all: Api<DynamicObject> = Api::all_with(self.cluster.client.clone(), &kind);
        let mut events = pin!(watcher(all, ours).default_backoff());
        let mut open = Open::default();
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => open.take(event),
                    Some(Err(error)) if is_unknown(&error) => return,
                    Some(Err(error)) => tracing::warn!(%error, "{PLURAL} can't be watched now"),
                    None => return,
                },
                Some((name, wait)) = running.next() => open.settle(&name, wait),
                next = open.next(), if running.len() < AT_ONCE_MAX => {
                    let api = Api::namespaced_with(self.cluster.client.clone(), &next.request.namespace, &kind);
                    running.push(self.attend(api, next));
                }
            }
        }
    }

    /// Answers one request. Returns its name, and how long it is left, if it is.
    async fn attend(&self, requests: Api<DynamicObject>, waiting: Waiting) -> (open::Name, Option<Duration>) {
        let answered = self.answer(&requests, &waiting).await;
        let account = waiting.request.account();
        let wait = match answered {
            Ok(None) => None,
            Ok(Some(denial)) => {
                let pod = &*waiting.request.name;
                tracing::warn!(%account, pod, reason = %denial, "pod certificate denied");
                None
            }
            Err(delay) => {
                if !delay.is_usual() {
                    tracing::warn!(%account, reason = %delay, "a pod certificate is not issued yet; it is tried again");
                }
                Some(delay.wait())
            }
        };
        (waiting.name, wait)
    }

    /// Issues a certificate, or returns why it was denied.
    async fn answer(
        &self,
        requests: &Api<DynamicObject>,
        waiting: &Waiting,
    ) -> Result<Option<Denial>, Delay> {
        let request = &waiting.request;
        let pod = self.pod(request).await?;
        let now = Time(Timestamp::now());
        let own = Account::new(ACCOUNT.0, ACCOUNT.1);
        let (status, denial) = match screen(request, pod.as_ref(), &own) {
            Err(denial) => (wire::denied(&denial, &now), Some(denial)),
            Ok(()) => match self.issue(request)? {
                Ok(issued) => (wire::issued(&issued, &now), None),
                Err(denial) => (wire::denied(&denial, &now), Some(denial)),
            },
        };
        self.write(requests, waiting, status).await?;
        let result = if denial.is_none() { "issued" } else { "refused" };
        metrics::counter!("weft_control_plane_certificates_total", "result" => result).increment(1);
        Ok(denial)
    }
}

impl Signer {
    /// The pod that has the name that a request gives.
    async fn pod(&self, request: &Request) -> Result<Option<Pod>, Delay> {
        let pods: Api<KubePod> = Api::namespaced(self.cluster.client.clone(), &request.namespace);
        let named = ListParams::default().fields(&format!("metadata.name={}", request.name));
        let found = timeout(CALL_TIMEOUT, pods.list(&named)).await;
        let found = found.map_err(|_| Delay::Silent)?.map_err(Delay::Pod)?;
        Ok(found.items.into_iter().next().map(wire::pod))
    }

    /// Has a leaf signed, if the key is of a kind that is certified. That the kubelet has the key was verified by the API
    /// server, so that a request that can't be read is one of another kind of key.
    fn issue(&self, request: &Request) -> Result<Result<wire::Issued, Denial>, IssueError> {
        let issued = self
            .issuing
            .issue_within(request.account(), &request.csr, &[], request.bounds());
        match issued {
            Ok((leaf, chain)) => Ok(Ok(wire::Issued { leaf, chain })),
            Err(error @ (IssueError::Request(_) | IssueError::Refused(Refusal::Key))) => {
                Ok(Err(Denial::Key(error.to_string())))
            }
            Err(error) => Err(error),
        }
    }

    async fn write(
        &self,
        requests: &Api<DynamicObject>,
        waiting: &Waiting,
        status: Value,
    ) -> Result<(), Delay> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": waiting.version },
            "status": status,
        }));
        let written = requests.patch_status(&waiting.name.1, &params, &patch);
        match self.leadership.write(written).await {
            // It was given up: the pod is gone.
            Err(error) if error.is_not_found() => Ok(()),
            written => Ok(written.map(drop)?),
        }
    }
}

/// Whether the server doesn't know such requests any longer.
fn is_unknown(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return false;
    };
    status.is_not_found()
}
