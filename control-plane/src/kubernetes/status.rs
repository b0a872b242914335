//! Writes what is in force into the status of routes and policies, while this replica leads.
//!
//! Every [`TICK`] the publisher is asked whether anything happened; [`Book`] says which objects are due. Each of those is
//! read afresh and patched only for the version that was read, so that nobody's words are overwritten unseen. What
//! people should notice becomes an Event of the object.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Error};
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval, timeout};
use weft_api::kubernetes::Time;
use weft_api::object::{Kind, ObjectRef};
use weft_control_plane_core::conditions::ObjectStatus;
use weft_control_plane_core::replicas::Others;
use weft_control_plane_core::status::{Allowance, Book, CONTROLLER, Count, Desired, News, Outcome, patch};

use super::Cluster;
use super::leader::{Leadership, WriteError};
use super::replicas::Known;
use crate::clock::Clock;
use crate::publish::{Command, Publisher};

/// Between two questions whether anything happened.
const TICK: Duration = Duration::from_millis(500);

/// Objects that are looked after at once.
const AT_ONCE_MAX: usize = 8;

/// For one question to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module's head.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    publisher: Publisher,
    leadership: Leadership,
    clock: Clock,
    recorder: Recorder,
    others: Known,
}

/// Why a status couldn't be written.
#[derive(Debug, Error)]
enum Failure {
    /// The object changed since it was read, or isn't read as it is yet.
    #[error("the object changed meanwhile")]
    Changed,
    /// The object is gone.
    #[error("the object is gone")]
    Gone,
    /// No answer.
    #[error("the API server doesn't answer")]
    Timeout,
    /// Another replica leads.
    #[error("another replica leads")]
    NotLeading,
    /// The API server refuses.
    #[error(
        "the API server refuses: {0}; has the control plane's ClusterRole the verbs get and, of status, patch?"
    )]
    Refused(#[source] Box<Error>),
    /// What was read isn't what an object is.
    #[error("the object can't be read: {0}")]
    Object(#[from] serde_json::Error),
}

impl Failure {
    /// Whether it is a part of life.
    fn is_usual(&self) -> bool {
        matches!(self, Self::Changed | Self::Gone | Self::NotLeading)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Api(status) if status.is_conflict() => Self::Changed,
            Error::Api(status) if status.is_not_found() => Self::Gone,
            _ => Self::Refused(Box::new(error)),
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotLeading => Self::NotLeading,
            WriteError::TimedOut => Self::Timeout,
            WriteError::Refused(error) => error.into(),
        }
    }
}

impl Writer {
    /// A writer for the replica that `cluster` names.
    pub fn new(cluster: &Cluster, publisher: Publisher, leadership: Leadership, others: Known) -> Self {
        let reporter = Reporter {
            controller: CONTROLLER.to_owned(),
            instance: Some(cluster.pod.to_string()),
        };
        Self {
            client: cluster.client.clone(),
            publisher,
            leadership,
            clock: Clock::start(),
            recorder: Recorder::new(cluster.client.clone(), reporter),
            others,
        }
    }

    /// Writes whenever this replica leads, until the publisher or the election has ended.
    pub async fn run(self) {
        let mut leading = self.leadership.changes();
        while leading.wait_for(|leads| *leads).await.is_ok() {
            tokio::select! {
                biased;
                _ = leading.wait_for(|leads| !*leads) => {}
                () = self.lead() => return,
            }
        }
    }

    /// Writes until the publisher has ended.
    async fn lead(&self) {
        let (mut book, mut allowance) = (Book::default(), Allowance::default());
        let (mut own, mut wishes, mut revision) = (Vec::new(), Vec::new(), 0);
        let mut others = self.others.clone();
        others.mark_changed();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let question = |answer| Command::Statuses(revision, answer);
            match self.publisher.ask(question).await {
                Err(_) => return,
                Ok(None) => {}
                Ok(Some(statuses)) => {
                    revision = statuses.revision;
                    own = statuses.objects;
                    others.mark_changed();
                }
            }
            // Before the other replicas have been asked nobody knows anything.
            if others.has_changed().unwrap_or(false)
                && let Some(others) = &*others.borrow_and_update()
            {
                wishes = desired(&own, others);
            }
            let due = book.due(&wishes, self.clock.now());
            let mut written = stream::iter(due)
                .map(|wish| async {
                    let result = self.write(&wish).await;
                    (wish, result)
                })
                .buffer_unordered(AT_ONCE_MAX);
            while let Some((wish, result)) = written.next().await {
                self.settle(&mut book, &mut allowance, wish, result).await;
            }
        }
    }

    /// Takes down what came of an attempt, and tells people.
    async fn settle(
        &self,
        book: &mut Book,
        allowance: &mut Allowance,
        wish: Desired,
        result: Result<Option<Written>, Failure>,
    ) {
        match result {
            Ok(written) => {
                for news in written.iter().flat_map(|written| &written.news) {
                    if allowance.take(self.clock.now()) {
                        self.tell(written.as_ref().map(|written| &written.object), news)
                            .await;
                    }
                }
                book.wrote(wish, self.clock.now());
            }
            Err(failure) => {
                if !failure.is_usual() {
                    tracing::warn!(object = %wish.object, reason = %failure, "status not written; it is tried again");
                }
                book.failed(&wish.object, self.clock.now());
            }
        }
    }

    /// Makes an object say what it should. `None`: it does already.
    async fn write(&self, wish: &Desired) -> Result<Option<Written>, Failure> {
        let api = self.api(&wish.object);
        let name = &*wish.object.name;
        let current = asked(api.get(name)).await?;
        let value = serde_json::to_value(&current)?;
        let (body, news) = match patch(wish, &value, &Time(Timestamp::now())) {
            Outcome::Nothing => return Ok(None),
            Outcome::Later => return Err(Failure::Changed),
            Outcome::Write { body, news } => (body, news),
        };
        let params = PatchParams {
            field_manager: Some(CONTROLLER.to_owned()),
            ..PatchParams::default()
        };
        let body = Patch::Merge(body);
        let write = api.patch_status(name, &params, &body);
        self.leadership.write(write).await?;
        metrics::counter!("weft_control_plane_status_writes_total").increment(1);
        let object = reference(&wish.object, current.metadata.uid);
        Ok(Some(Written { object, news }))
    }

    async fn tell(&self, object: Option<&ObjectReference>, news: &News) {
        let Some(object) = object else { return };
        let event = Event {
            type_: if news.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: news.reason.clone(),
            note: Some(news.note.clone()),
            action: "WriteStatus".to_owned(),
            secondary: None,
        };
        let told = timeout(CALL_TIMEOUT, self.recorder.publish(&event, object)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!(object = ?object.name, reason = %news.reason, "an Event couldn't be written");
        }
    }

    fn api(&self, object: &ObjectRef) -> Api<DynamicObject> {
        let kind = object.kind;
        let version = kind.api_version().rsplit('/').next().unwrap_or_default();
        let known = GroupVersionKind::gvk(kind.group(), version, kind.name());
        let resource = ApiResource::from_gvk_with_plural(&known, plural(kind));
        Api::namespaced_with(self.client.clone(), &object.namespace, &resource)
    }
}

/// What was written.
struct Written {
    object: ObjectReference,
    news: Vec<News>,
}

fn desired(own: &[(ObjectStatus, Count)], others: &Others) -> Vec<Desired> {
    let wish = |(status, count): &(ObjectStatus, Count)| {
        let taken = others.taken(&status.object.to_string(), status.generation, count.clone());
        Desired::new(status, &taken)
    };
    own.iter().filter_map(wish).collect()
}

async fn asked<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    let answered = timeout(CALL_TIMEOUT, call).await;
    answered.map_err(|_| Failure::Timeout)?.map_err(Failure::from)
}

fn reference(object: &ObjectRef, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some(object.kind.api_version().to_owned()),
        kind: Some(object.kind.name().to_owned()),
        namespace: Some(object.namespace.to_string()),
        name: Some(object.name.to_string()),
        uid,
        ..ObjectReference::default()
    }
}

/// The name of a kind's resource in the API. Only kinds with a status are asked for.
fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::HttpRoute => "httproutes",
        Kind::GrpcRoute => "grpcroutes",
        Kind::TrafficPolicy => "trafficpolicies",
        Kind::MeshTlsPolicy => "meshtlspolicies",
        Kind::Namespace => "namespaces",
        Kind::Service => "services",
        Kind::Pod => "pods",
        Kind::EndpointSlice => "endpointslices",
    }
}
