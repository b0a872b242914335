//! The exchange of the root, as the leader drives it: what to do next is [`weft_control_plane_core::rotation`]'s, what is
//! done is one write of the Secret, for the version that was looked at.
//!
//! Everything is in the Secret: the phase and the operator's request as annotations, the root that doesn't sign under
//! `other.crt` and `other.key`, all roots in `ca.crt`. `weft ca rotate` writes the request and reads the rest.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Map, Value, json};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use weft_control_plane_core::issue::UnixTime;
use weft_control_plane_core::rotation::{Phase, Request, Sight, Step, Wait, next};

use super::leader::{Leadership, WriteError};
use super::replicas::Known;
use super::root::{CERTIFICATE, KEY, MADE, ROOTS, SECRET, Seen, fingerprint_of, is_ours};
use super::{Cluster, FIELD_MANAGER};
use crate::ca::{CaError, make_root};
use crate::certificates::Issuing;
use crate::clock::unix_now;
use crate::publish::{Ending, Publisher};
use crate::replica::own_roots;

/// The annotation that says how far an exchange is.
pub const PHASE: &str = "weft.dev/rotation";

/// The annotation by which an operator asks.
pub const REQUEST: &str = "weft.dev/rotation-request";

/// The annotation that says what is being waited for, or what became of the last request.
pub const NOTE: &str = "weft.dev/rotation-note";

/// Key of the certificate that doesn't sign.
const OTHER_CERTIFICATE: &str = "other.crt";

/// Its key.
const OTHER_KEY: &str = "other.key";

/// How often it is looked whether the next step can be made.
const INTERVAL: Duration = Duration::from_secs(1);

/// A step was not made.
#[derive(Debug, Error)]
enum StepError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Make(#[from] CaError),
    #[error(transparent)]
    Ending(#[from] Ending),
    #[error("Secret {SECRET} is in an exchange and has no {0}; put it back, or remove annotation {PHASE}")]
    Missing(&'static str),
}

/// See the module's head.
pub struct Driver {
    /// The cluster.
    pub cluster: Cluster,
    /// What signs and is trusted here.
    pub issuing: Arc<Issuing>,
    /// Knows how far the own proxies are.
    pub publisher: Publisher,
    /// Whether this replica may write.
    pub leadership: Leadership,
    /// Know how far theirs are.
    pub others: Known,
    /// The bundle that lies in every namespace.
    pub distributed: watch::Receiver<Option<String>>,
    /// How long leaves live.
    pub leaf_lifetime: Duration,
}

impl Driver {
    /// Drives what is asked for, while this replica leads, for ever.
    pub async fn run(self, seen: Seen) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let secret = seen.borrow().clone();
            let Some(secret) = secret.filter(|_| self.leadership.held()) else {
                continue;
            };
            match self.turn(&secret).await {
                Err(StepError::Ending(_)) => return,
                // Somebody wrote first, or leads by now: the next look knows.
                Err(StepError::Write(error)) if error.is_conflict() => {}
                Ok(()) | Err(StepError::Write(WriteError::NotLeading)) => {}
                Err(error) => {
                    tracing::warn!(%error, "the exchange of the root is held up; it is tried again");
                }
            }
        }
    }

    async fn turn(&self, secret: &Secret) -> Result<(), StepError> {
        let annotation = |key: &str| secret.annotations().get(key).map(String::as_str);
        let (phase, request) = (annotation(PHASE).and_then(read_phase), annotation(REQUEST));
        if phase.is_none() && request.is_none() {
            return Ok(());
        }
        let step = next(
            phase,
            request.and_then(read_request),
            &self.sight(secret).await?,
            self.leaf_lifetime,
            unix_now(),
        );
        let change = match step {
            Step::Begin if !is_ours(secret) => Change::note(
                "refused: the root is supplied; whoever supplies it replaces it, and the mesh follows",
            ),
            Step::Begin => self.begin(secret)?,
            Step::Switch | Step::Revert => exchange(secret, step == Step::Revert)?,
            Step::Retire(until) => {
                Change::phase(Some(Phase::Retiring(until)), &Wait::Leaves(until).to_string())
            }
            Step::Finish => end(secret, "done: the former root is trusted no longer")?,
            Step::Undo => end(secret, "given up: the new root is trusted no longer")?,
            Step::Dismiss => Change::note("nothing to do for the last request"),
            Step::Wait(wait) => {
                let note = wait.to_string();
                if annotation(NOTE) == Some(note.as_str()) {
                    return Ok(());
                }
                return self.write(secret, Change::note(&note).keeping_request()).await;
            }
        };
        tracing::info!(?step, "exchange of the root");
        self.write(secret, change).await
    }

    async fn sight(&self, secret: &Secret) -> Result<Sight, Ending> {
        let own = own_roots(&self.publisher, &self.issuing).await?;
        let others = self.others.borrow().clone().unwrap_or_default();
        let value = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
        let signs = value(CERTIFICATE).and_then(|pem| fingerprint_of(&pem.0));
        let bundle = self.issuing.bundle();
        let follows = value(ROOTS).is_some_and(|pem| {
            let told = weft_identity::bundle::TrustBundle::from_pem(bundle.trust_domain().clone(), &pem.0);
            told.is_ok_and(|told| told == bundle)
        });
        let published = own.bundle == bundle.fingerprint();
        Ok(Sight {
            own: follows && published && signs.as_deref() == Some(own.issuer.as_str()),
            taken: others.roots(&own),
            behind: others.behind(&own),
            distributed: *self.distributed.borrow() == Some(own.bundle),
        })
    }

    fn begin(&self, secret: &Secret) -> Result<Change, StepError> {
        let root = make_root(self.issuing.bundle().trust_domain())?;
        let roots = [text(secret, ROOTS)?, root.certificate.clone()].concat();
        let mut change = Change::phase(
            Some(Phase::Publishing),
            "the new root is published beside the old one",
        );
        change.set(OTHER_CERTIFICATE, Some(root.certificate));
        change.set(OTHER_KEY, Some(root.key));
        change.set(ROOTS, Some(roots));
        Ok(change)
    }

    async fn write(&self, secret: &Secret, change: Change) -> Result<(), StepError> {
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({
            "metadata": {
                "resourceVersion": secret.resource_version(),
                "annotations": change.annotations,
            },
            "stringData": change.data,
            "data": change.gone,
        }));
        self.leadership
            .write(secrets.patch(SECRET, &params, &patch))
            .await?;
        Ok(())
    }
}

/// What changes in the Secret.
struct Change {
    annotations: Map<String, Value>,
    data: Map<String, Value>,
    gone: Map<String, Value>,
}

impl Change {
    /// Answers the request by a note.
    fn note(note: &str) -> Self {
        let annotations = [(NOTE.to_owned(), json!(note)), (REQUEST.to_owned(), Value::Null)];
        Self {
            annotations: annotations.into_iter().collect(),
            data: Map::new(),
            gone: Map::new(),
        }
    }

    /// Reaches a phase.
    fn phase(phase: Option<Phase>, note: &str) -> Self {
        let mut change = Self::note(note);
        let phase = phase.map_or(Value::Null, |phase| json!(write_phase(phase)));
        change.annotations.insert(PHASE.to_owned(), phase);
        change
    }

    fn keeping_request(mut self) -> Self {
        self.annotations.remove(REQUEST);
        self
    }

    fn set(&mut self, key: &str, value: Option<String>) {
        match value {
            Some(value) => self.data.insert(key.to_owned(), json!(value)),
            None => self.gone.insert(key.to_owned(), Value::Null),
        };
    }
}

/// The root that doesn't sign and the one that does exchange their roles.
fn exchange(secret: &Secret, back: bool) -> Result<Change, StepError> {
    let note = if back {
        "given up: the former root signs again"
    } else {
        "the new root signs"
    };
    let mut change = Change::phase(Some(Phase::Switching), note);
    let certificate = text(secret, OTHER_CERTIFICATE)?;
    let made = fingerprint_of(certificate.as_bytes()).unwrap_or_default();
    change.annotations.insert(MADE.to_owned(), json!(made));
    change.set(OTHER_CERTIFICATE, Some(text(secret, CERTIFICATE)?));
    change.set(OTHER_KEY, Some(text(secret, KEY)?));
    change.set(CERTIFICATE, Some(certificate));
    change.set(KEY, Some(text(secret, OTHER_KEY)?));
    Ok(change)
}

/// Only the root that signs is left.
fn end(secret: &Secret, note: &str) -> Result<Change, StepError> {
    let mut change = Change::phase(None, note);
    change.set(ROOTS, Some(text(secret, CERTIFICATE)?));
    change.set(OTHER_CERTIFICATE, None);
    change.set(OTHER_KEY, None);
    Ok(change)
}

fn text(secret: &Secret, key: &'static str) -> Result<String, StepError> {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    let text = value.and_then(|value| String::from_utf8(value.0.clone()).ok());
    text.ok_or(StepError::Missing(key))
}

fn write_phase(phase: Phase) -> String {
    match phase {
        Phase::Publishing => "publishing".to_owned(),
        Phase::Switching => "switching".to_owned(),
        Phase::Retiring(until) => format!("retiring until {}", until.0),
    }
}

fn read_phase(text: &str) -> Option<Phase> {
    match text {
        "publishing" => Some(Phase::Publishing),
        "switching" => Some(Phase::Switching),
        _ => {
            let until = text.strip_prefix("retiring until ")?.parse().ok()?;
            Some(Phase::Retiring(UnixTime(until)))
        }
    }
}

fn read_request(text: &str) -> Option<Request> {
    match text {
        "start" => Some(Request::Start),
        "abort" => Some(Request::Abort),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_as_they_are_written() {
        for phase in [
            Phase::Publishing,
            Phase::Switching,
            Phase::Retiring(UnixTime(1_800_000_000)),
        ] {
            assert_eq!(read_phase(&write_phase(phase)), Some(phase));
        }
        for text in ["", "done", "retiring", "retiring until soon"] {
            assert_eq!(read_phase(text), None, "{text:?}");
        }
    }
}
