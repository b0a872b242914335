//! Waiting for edits. A thread of its own: reading files blocks, and an edit is rare.
//!
//! The kernel's events say when to look; a look without reading, twice a second, catches what they miss (a directory
//! that is itself a symlink and was swapped, a link's target, network file systems). After an event the directory
//! is left alone until it has been quiet for a moment, so that a file is not read half written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver as Events, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Change;
use super::directory::{self, Directory, Fingerprint};
use super::state::State;

/// How long a directory must have been quiet before it is read.
const QUIET: Duration = Duration::from_millis(30);
/// How long reading is put off at most while there is no quiet.
const MAX_DELAY: Duration = Duration::from_millis(200);
/// How long a file must be gone before that is believed.
const GONE_FOR: Duration = Duration::from_millis(150);
/// How often the directory is looked at without an event.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Changes that may wait for whoever receives them; beyond that the directory isn't read.
const MAX_WAITING: usize = 16;

/// Why a directory can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It can't be listed.
    #[error(
        "the manifests in {dir} can't be read: {cause}; check that the directory exists and may be listed"
    )]
    Unreadable {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// No thread could be started.
    #[error("no thread could be started to watch {dir}: {cause}; check the limit on processes")]
    Thread {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
}

/// Reads a directory of manifests and goes on watching it. The first change comes at once, even if it is empty; then
/// one follows for each edit that changes anything that is in force or to be said. Ends when the receiver is
/// dropped.
pub fn watch(dir: PathBuf) -> Result<Receiver<Change>, WatchError> {
    directory::read(&dir).map_err(|cause| WatchError::Unreadable {
        dir: dir.clone(),
        cause,
    })?;
    let (sender, receiver) = channel(MAX_WAITING);
    let path = dir.clone();
    let thread = std::thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || run(&path, &sender));
    thread.map_err(|cause| WatchError::Thread { dir, cause })?;
    Ok(receiver)
}

fn run(dir: &Path, sender: &Sender<Change>) {
    // One waiting event is as good as many.
    let (wake, events) = sync_channel(1);
    let mut alarm = Alarm::default();
    let mut state = State::default();
    let mut problems = None;
    while !sender.is_closed() {
        alarm.set(dir, &wake);
        let seen = directory::fingerprint(dir).ok();
        let change = match read(dir, &state) {
            Ok(directory) => state.update(directory),
            Err(error) => state.unreadable(&dir.display().to_string(), &error.to_string()),
        };
        let said = problems.as_ref() == Some(&change.problems);
        if !(said && change.applied.is_empty() && change.deleted.is_empty()) {
            problems = Some(change.problems.clone());
            if sender.blocking_send(change).is_err() {
                return;
            }
        }
        wait(dir, seen.as_ref(), &events, &alarm, sender);
    }
}

/// Reads the directory; twice if a file is gone, because some editors take a file away before they put the new one
/// there.
fn read(dir: &Path, state: &State) -> io::Result<Directory> {
    let directory = directory::read(dir)?;
    if !state.misses(&directory) {
        return Ok(directory);
    }
    std::thread::sleep(GONE_FOR);
    directory::read(dir)
}

/// Returns when the directory should be read again, or nobody listens any more.
fn wait(dir: &Path, seen: Option<&Fingerprint>, events: &Events<()>, alarm: &Alarm, sender: &Sender<Change>) {
    while !sender.is_closed() {
        match events.recv_timeout(LOOK_EVERY) {
            Ok(()) => return quiet(events),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                if directory::fingerprint(dir).ok().as_ref() != seen || alarm.is_stale(dir) {
                    return quiet(events);
                }
            }
        }
    }
}

fn quiet(events: &Events<()>) {
    let end = Instant::now() + MAX_DELAY;
    while events.recv_timeout(QUIET).is_ok() && Instant::now() < end {}
}

/// The kernel's watch, and on which directory it really is.
#[derive(Default)]
struct Alarm {
    watcher: Option<RecommendedWatcher>,
    on: Option<PathBuf>,
}

impl Alarm {
    fn is_stale(&self, dir: &Path) -> bool {
        self.on != dir.canonicalize().ok()
    }

    /// Watches the directory that the path leads to now. Without a watch, looking twice a second must do.
    fn set(&mut self, dir: &Path, wake: &SyncSender<()>) {
        if self.watcher.is_some() && !self.is_stale(dir) {
            return;
        }
        self.on = dir.canonicalize().ok();
        self.watcher = None;
        let wake = wake.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_edit(event.kind)) {
                let _ = wake.try_send(());
            }
        });
        let armed = watcher.and_then(|mut watcher| {
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match armed {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => tracing::warn!(
                dir = %dir.display(), %error,
                "the system does not announce edits of the manifests; they are looked for every {LOOK_EVERY:?}"
            ),
        }
    }
}

/// Reading a file is an event too; ours must not wake us.
fn is_edit(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
