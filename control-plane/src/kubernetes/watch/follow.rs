//! One kind, followed for ever: listed, watched, and listed again whenever the watch can't go on.
//!
//! A watch that the server ends in good order, or that breaks off once, goes on where it was, if the server's state has
//! not gone back meanwhile. Everything else begins with a new list: an error within the watch (410 among them), a
//! server that can't be reached or refuses. So a server that was away is never taken for one that went on.

use std::time::Duration;

use kube::core::WatchEvent;
use kube::runtime::watcher::DefaultBackoff;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weft_control_plane_core::relist::{Heard, Mirror, went_back};

use super::api::{Events, Fault, SILENCE_MAX, Source, ends_list};
use super::change::{Change, Seen};
use super::decode::{self, Found, Name};
use super::kinds::Watched;

/// A watch that ends sooner is not gone on with at once.
const WATCH_LIFE_MIN: Duration = Duration::from_secs(1);

/// Longest wait that is granted to a server that asks for one.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// So often in a row the server may say that it does not know a kind whose definition it has, before the rest goes on
/// without it: a definition is not served at once, and not in every version.
const UNKNOWN_MAX: u32 = 4;

/// Whether the server has the definition of a kind.
pub(super) struct Presence {
    name: String,
    definitions: watch::Receiver<Option<Vec<String>>>,
}

impl Presence {
    pub(super) fn new(name: String, definitions: watch::Receiver<Option<Vec<String>>>) -> Self {
        Self { name, definitions }
    }

    /// Waits until it is known, and returns it.
    async fn known(&mut self) -> bool {
        let known = self.definitions.wait_for(Option::is_some).await;
        known.is_ok_and(|known| known.as_ref().is_some_and(|names| names.contains(&self.name)))
    }

    /// Waits until it is so.
    async fn becomes(&mut self, present: bool) {
        let name = self.name.clone();
        let so = self.definitions.wait_for(|known| {
            known
                .as_ref()
                .is_some_and(|names| names.contains(&name) == present)
        });
        if so.await.is_err() {
            // Whoever knew has ended: so does everything.
            std::future::pending::<()>().await;
        }
    }
}

/// Follows one kind.
pub(super) struct Follower {
    source: Source,
    presence: Option<Presence>,
    changes: mpsc::Sender<Change>,
    mirror: Mirror<Name, Found>,
    backoff: DefaultBackoff,
    /// Whether lists are asked for as streams.
    streaming: bool,
    /// How often in a row the server did not know the kind.
    unknown: u32,
}

/// The collector has ended, and with it everything.
struct Ending;

/// What ends a cycle of list and watch.
enum Stop {
    Fault(Fault),
    Ending,
}

impl<E: Into<Fault>> From<E> for Stop {
    fn from(fault: E) -> Self {
        Self::Fault(fault.into())
    }
}

impl From<Ending> for Stop {
    fn from(Ending: Ending) -> Self {
        Self::Ending
    }
}

impl Follower {
    pub(super) fn new(source: Source, presence: Option<Presence>, changes: mpsc::Sender<Change>) -> Self {
        Self {
            source,
            presence,
            changes,
            mirror: Mirror::default(),
            backoff: DefaultBackoff::default(),
            streaming: true,
            unknown: 0,
        }
    }

    /// Follows the kind until the collector has ended.
    pub(super) async fn run(mut self) {
        let mut presence = self.presence.take();
        loop {
            let stop = match &mut presence {
                None => self.cycle().await,
                Some(presence) => {
                    if !presence.known().await {
                        if self.hear(Heard::Withdrawn).await.is_err()
                            || self.tell(Seen::Absent).await.is_err()
                        {
                            return;
                        }
                        presence.becomes(true).await;
                    }
                    tokio::select! {
                        stop = self.cycle() => stop,
                        () = presence.becomes(false) => continue,
                    }
                }
            };
            match stop {
                Stop::Ending => return,
                Stop::Fault(fault) => {
                    if self.rest(fault).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Says what is wrong, and waits before the next attempt.
    async fn rest(&mut self, fault: Fault) -> Result<(), Ending> {
        if self.streaming && fault.is_no_stream() {
            self.streaming = false;
        }
        self.unknown = if fault.is_unknown_kind() {
            self.unknown + 1
        } else {
            0
        };
        let wait = self.backoff.next().unwrap_or(RETRY_AFTER_MAX);
        let wait = wait.max(fault.retry_after().min(RETRY_AFTER_MAX));
        self.tell(Seen::Fault(fault.to_string())).await?;
        if self.unknown >= UNKNOWN_MAX {
            self.tell(Seen::Unserved).await?;
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// One list, and the watch after it for as long as it goes on.
    async fn cycle(&mut self) -> Stop {
        match self.list_and_watch().await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn list_and_watch(&mut self) -> Result<std::convert::Infallible, Stop> {
        self.hear(Heard::Restarted).await?;
        let (mut version, mut events) = if self.streaming {
            let mut events = self.source.stream().await?;
            (self.streamed_list(&mut events).await?, events)
        } else {
            let version = self.paged_list().await?;
            let events = self.source.watch(&version).await?;
            (version, events)
        };
        self.unknown = 0;
        loop {
            let begun = Instant::now();
            version = self.follow(events, version).await?;
            if begun.elapsed() < WATCH_LIFE_MIN {
                tokio::time::sleep(self.backoff.next().unwrap_or(RETRY_AFTER_MAX)).await;
            }
            let now = self.source.version().await?;
            if went_back(&version, &now) {
                let known = version;
                return Err(Fault::WentBack { known, now }.into());
            }
            events = self.source.watch(&version).await?;
        }
    }

    /// Takes in a list that comes as a stream; returns its version.
    async fn streamed_list(&mut self, events: &mut Events) -> Result<String, Stop> {
        loop {
            let event = tokio::time::timeout(SILENCE_MAX, futures_util::StreamExt::next(events)).await;
            match event.map_err(|_| Fault::Silent)?.ok_or(Fault::Incomplete)?? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => self.listed(object).await?,
                WatchEvent::Deleted(object) => {
                    let (name, _) = decode::object(self.source.kind, object);
                    self.hear(Heard::Gone(name)).await?;
                }
                WatchEvent::Bookmark(bookmark) if ends_list(&bookmark.metadata.annotations) => {
                    self.hear(Heard::Complete).await?;
                    return Ok(bookmark.metadata.resource_version);
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => return Err(Fault::Ended(status).into()),
            }
        }
    }

    /// Takes in a list by pages; returns its version.
    async fn paged_list(&mut self) -> Result<String, Stop> {
        let mut page = self.source.page(None).await?;
        loop {
            for object in page.take() {
                self.listed(object).await?;
            }
            if page.is_last() {
                let version = page.version().ok_or(Fault::NoVersion)?.to_owned();
                self.hear(Heard::Complete).await?;
                return Ok(version);
            }
            page = self.source.page(Some(&page)).await?;
        }
    }

    async fn listed(&mut self, object: Value) -> Result<(), Ending> {
        let (name, found) = decode::object(self.source.kind, object);
        self.hear(Heard::Listed(name, found)).await
    }

    /// Takes in what a watch says until it ends; returns the version that it came to.
    async fn follow(&mut self, mut events: Events, mut version: String) -> Result<String, Stop> {
        loop {
            let next = tokio::time::timeout(SILENCE_MAX, futures_util::StreamExt::next(&mut events)).await;
            // Silence, the server's own end and a cut are alike: the watch may go on from here.
            let Ok(Some(Ok(event))) = next else {
                return Ok(version);
            };
            let (heard, seen) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let seen = decode::version(&object)?;
                    let (name, found) = decode::object(self.source.kind, object);
                    (Some(Heard::Changed(name, found)), seen)
                }
                WatchEvent::Deleted(object) => {
                    let seen = decode::version(&object)?;
                    let (name, _) = decode::object(self.source.kind, object);
                    (Some(Heard::Gone(name)), seen)
                }
                WatchEvent::Bookmark(bookmark) => (None, bookmark.metadata.resource_version),
                WatchEvent::Error(status) => return Err(Fault::Ended(status).into()),
            };
            if let Some(heard) = heard {
                self.hear(heard).await?;
            }
            version = seen;
        }
    }

    /// Takes in what was heard, and hands on what it changes. A cycle may be given up while it waits: so nothing is
    /// taken in before there is room to hand it on.
    async fn hear(&mut self, heard: Heard<Name, Found>) -> Result<(), Ending> {
        let room = self.changes.reserve().await.map_err(|_| Ending)?;
        let complete = matches!(heard, Heard::Complete);
        let differences = self.mirror.hear(heard);
        let kind = self.source.kind;
        if complete {
            let seen = Seen::Listed(differences);
            room.send(Change { kind, seen });
        } else if !differences.is_empty() {
            let seen = Seen::Changed(differences);
            room.send(Change { kind, seen });
        }
        Ok(())
    }

    async fn tell(&self, seen: Seen) -> Result<(), Ending> {
        let kind: Watched = self.source.kind;
        self.changes.send(Change { kind, seen }).await.map_err(|_| Ending)
    }
}
