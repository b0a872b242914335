//! The requests: a kind's list, as a stream or in pages, and its watch.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::response::Status;
use kube::core::{DynamicObject, Request, Resource, WatchEvent};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::kinds::Watched;

/// How long an answer may take to begin, and a page to come whole.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a watch may be silent. The server sends a bookmark about every minute; a connection that has died without
/// a word is noticed by this.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(100);

/// Seconds after which the server ends a watch. It has to be less than 295.
const WATCH_SECONDS: u32 = 290;

/// Objects in one page of a list.
const PAGE_OBJECTS: u32 = 500;

/// On the bookmark that ends a streaming list.
const LIST_END: &str = "k8s.io/initial-events-end";

/// What a watch sends.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<WatchEvent<Value>, kube::Error>> + Send>>;

/// Why a watch or a list can't go on.
#[derive(Debug, Error)]
pub(super) enum Fault {
    /// The server can't be reached.
    #[error("the API server can't be called: {0}")]
    Unreachable(String),
    /// The server refuses.
    #[error("the API server refuses: {} ({})", .0.message, .0.code)]
    Refused(Box<Status>),
    /// A watch ended with an error.
    #[error("the API server ended the watch: {} ({})", .0.message, .0.code)]
    Ended(Box<Status>),
    /// No answer.
    #[error("the API server does not answer within {ANSWER_TIMEOUT:?}")]
    Silent,
    /// A list ended before it was complete.
    #[error("the API server ended the list before it was complete")]
    Incomplete,
    /// The server's store is older than it was.
    #[error("the API server's state went back from version {known} to {now}")]
    WentBack {
        /// The newest version that was seen.
        known: String,
        /// The server's.
        now: String,
    },
    /// A list or an object without a version can't be watched from.
    #[error("the API server's answer has no resourceVersion")]
    NoVersion,
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            error => Self::Unreachable(with_sources(&error)),
        }
    }
}

/// The client's errors say what failed; why is in their sources.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(deeper) = source {
        let said = deeper.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = deeper.source();
    }
    text
}

impl Fault {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Refused(status) | Self::Ended(status) => Some(status),
            _ => None,
        }
    }

    /// The server doesn't know the kind.
    pub(super) fn is_unknown_kind(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// The server can't stream lists, or not of this kind.
    pub(super) fn is_no_stream(&self) -> bool {
        self.status()
            .is_some_and(|status| matches!(status.code, 400 | 422))
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Duration {
        let details = self.status().and_then(|status| status.details.as_ref());
        Duration::from_secs(details.map_or(0, |details| u64::from(details.retry_after_seconds)))
    }
}

/// One page of a list.
#[derive(Deserialize)]
pub(super) struct Page {
    metadata: PageHead,
    #[serde(default)]
    items: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageHead {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

/// A kind at the API server.
pub(super) struct Source {
    client: Client,
    pub(super) kind: Watched,
    /// Where it is at the server.
    pub(super) path: String,
}

impl Source {
    pub(super) fn new(client: Client, kind: Watched) -> Self {
        let path = DynamicObject::url_path(&kind.resource(), None);
        Self { client, kind, path }
    }

    /// Lists the kind by a watch that begins with everything there is.
    pub(super) async fn stream(&self) -> Result<Events, Fault> {
        let params = WatchParams {
            send_initial_events: true,
            ..Self::params()
        };
        self.begin(&params, "").await
    }

    /// Watches from a version on.
    pub(super) async fn watch(&self, version: &str) -> Result<Events, Fault> {
        self.begin(&Self::params(), version).await
    }

    fn params() -> WatchParams {
        WatchParams::default().timeout(WATCH_SECONDS)
    }

    async fn begin(&self, params: &WatchParams, version: &str) -> Result<Events, Fault> {
        let request = Request::new(&self.path);
        let request = if self.kind.metadata_only() {
            request.watch_metadata(params, version)
        } else {
            request.watch(params, version)
        };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let begun = self.client.request_events::<Value>(request);
        let events = tokio::time::timeout(ANSWER_TIMEOUT, begun).await;
        Ok(events.map_err(|_| Fault::Silent)??.boxed())
    }

    /// A page of the list: the first, or the one that another page names.
    pub(super) async fn page(&self, after: Option<&Page>) -> Result<Page, Fault> {
        let after = after.map(|page| page.metadata.next.clone());
        self.list(&ListParams {
            limit: Some(PAGE_OBJECTS),
            continue_token: after,
            ..ListParams::default()
        })
        .await
    }

    /// The server's version now, of the whole store: the answer to a list of one.
    pub(super) async fn version(&self) -> Result<String, Fault> {
        let page = self.list(&ListParams::default().limit(1)).await?;
        page.version().map(ToOwned::to_owned).ok_or(Fault::NoVersion)
    }

    async fn list(&self, params: &ListParams) -> Result<Page, Fault> {
        let request = Request::new(&self.path);
        let request = if self.kind.metadata_only() {
            request.list_metadata(params)
        } else {
            request.list(params)
        };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, self.client.request(request)).await;
        Ok(answered.map_err(|_| Fault::Silent)??)
    }
}

impl Page {
    /// Its objects, once.
    pub(super) fn take(&mut self) -> Vec<Value> {
        self.items.take().unwrap_or_default()
    }

    pub(super) fn is_last(&self) -> bool {
        self.metadata.next.is_empty()
    }

    pub(super) fn version(&self) -> Option<&str> {
        Some(self.metadata.resource_version.as_str()).filter(|version| !version.is_empty())
    }
}

/// Whether a bookmark ends a streaming list.
pub(super) fn ends_list(annotations: &std::collections::BTreeMap<String, String>) -> bool {
    annotations.contains_key(LIST_END)
}
