//! What the control thread publishes for the workers: the linked snapshot and the identity, each one pointer swap.
//!
//! Workers read without a lock. The one thing that flows the other way is a name nobody has asked for yet: it goes
//! through a bounded channel to the control thread, which subscribes to it. That a destination is in use is noted in
//! a flag per destination, set by whoever looks it up and taken back by the control thread, which unsubscribes from
//! what stays unused.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use weft_proxy_core::resource::Name;
use weft_proxy_core::snapshot::{Lookup, Snapshot};

use crate::identity::Identity;

/// Names on their way to the control thread.
const MAX_REQUESTED: usize = 1024;

/// How long anybody waits for the control plane's answer about an unknown destination.
pub const MAX_WAIT: Duration = Duration::from_secs(5);

/// A snapshot as published, with what belongs to it but isn't configuration.
#[derive(Debug, Default)]
pub struct View {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// Counts up with each published snapshot; 0 before the first.
    pub generation: u64,
    /// Whether a destination was looked up since the last [`Published::take_used`].
    used: HashMap<Name, AtomicBool>,
}

impl View {
    /// What is known of the destination `name` (fully expanded). Notes that it is in use.
    pub fn lookup(&self, name: &str) -> Lookup {
        if let Some(used) = self.used.get(name)
            && !used.load(Relaxed)
        {
            used.store(true, Relaxed);
        }
        self.snapshot.lookup(name)
    }
}

/// The meeting point of the control thread and the workers.
#[derive(Debug)]
pub struct Published {
    view: ArcSwap<View>,
    generation: watch::Sender<u64>,
    identity: ArcSwapOption<Identity>,
    identities: watch::Sender<u64>,
    connected: AtomicBool,
    requested: mpsc::Sender<Name>,
}

impl Published {
    /// Nothing published yet. The receiver yields the names that workers ask for.
    pub fn new() -> (Arc<Self>, mpsc::Receiver<Name>) {
        let (requested, names) = mpsc::channel(MAX_REQUESTED);
        let published = Self {
            view: ArcSwap::default(),
            generation: watch::Sender::new(0),
            identity: ArcSwapOption::empty(),
            identities: watch::Sender::new(0),
            connected: AtomicBool::new(false),
            requested,
        };
        (Arc::new(published), names)
    }

    /// The newest snapshot.
    pub fn load(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Changes with every published snapshot.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Our identity; `None` until the first certificate is here.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// Changes with every published identity.
    pub fn identity_changes(&self) -> watch::Receiver<u64> {
        self.identities.subscribe()
    }

    /// Our identity, as soon as there is one.
    pub async fn identified(&self) -> Arc<Identity> {
        let mut identities = self.identity_changes();
        loop {
            if let Some(identity) = self.identity() {
                return identity;
            }
            // The sender is held by `self`, so waiting can't fail.
            let _ = identities.changed().await;
        }
    }

    /// Whether the configuration stream stands at the moment.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// What is known of the destination `name` (fully expanded), asking the control plane for an unknown one and
    /// waiting at most `wait` for its answer, and never longer than [`MAX_WAIT`]. [`Lookup::Pending`]: there was none.
    pub async fn destination(&self, name: &Name, wait: Duration) -> Lookup {
        let mut changes = self.changes();
        let found = self.load().lookup(name);
        if !matches!(found, Lookup::Pending) || self.requested.try_send(Arc::clone(name)).is_err() {
            return found;
        }
        let answer = async {
            while changes.changed().await.is_ok() {
                match self.load().lookup(name) {
                    Lookup::Pending => {}
                    found => return found,
                }
            }
            Lookup::Pending
        };
        timeout(wait.min(MAX_WAIT), answer)
            .await
            .unwrap_or(Lookup::Pending)
    }

    /// Puts `snapshot` in force. For the control thread only.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = *self.generation.borrow() + 1;
        let old = self.load();
        let flag = |name: &Name| AtomicBool::new(old.used.get(name).is_some_and(|used| used.load(Relaxed)));
        let used = snapshot
            .destinations()
            .keys()
            .map(|name| (Arc::clone(name), flag(name)))
            .collect();
        self.view.store(Arc::new(View {
            snapshot,
            generation,
            used,
        }));
        self.generation.send_replace(generation);
    }

    /// Puts `identity` in force. For the control thread only.
    pub fn publish_identity(&self, identity: Identity) {
        let generation = identity.generation;
        self.identity.store(Some(Arc::new(identity)));
        self.identities.send_replace(generation);
    }

    /// Notes whether the configuration stream stands.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Relaxed);
    }

    /// The destinations that were looked up since the last call.
    pub fn take_used(&self) -> BTreeSet<Name> {
        let view = self.load();
        let taken = view.used.iter().filter(|(_, used)| used.swap(false, Relaxed));
        taken.map(|(name, _)| Arc::clone(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use weft_proxy_core::resource::{Kind, Listener, ListenerBody, Protocol, Resource};
    use weft_proxy_core::snapshot::Store;

    use super::*;

    fn name(text: &str) -> Name {
        text.into()
    }

    /// A store in which `a:80` is asked for.
    fn store() -> Store {
        let mut store = Store::default();
        store.set_roots(BTreeSet::from([(Kind::Listener, name("a:80"))]));
        store
    }

    fn listener() -> Resource {
        let body = ListenerBody::Outbound {
            protocol: Protocol::Tcp,
            routes: None,
            cluster: None,
        };
        Resource::Listener(Listener {
            name: name("a:80"),
            body,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_destination_is_asked_for_and_waited_for() {
        let (published, mut names) = Published::new();
        let control = Arc::clone(&published);
        let answering = tokio::spawn(async move {
            let asked = names.recv().await.unwrap();
            let mut store = store();
            store.apply(vec![listener()], Vec::new());
            control.publish(Arc::new(store.link(&Snapshot::default())));
            asked
        });
        let found = published.destination(&name("a:80"), MAX_WAIT).await;
        assert!(matches!(found, Lookup::Known(_)), "{found:?}");
        assert_eq!(&*answering.await.unwrap(), "a:80");
        assert_eq!(published.load().generation, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_pending_after_the_wait_and_never_absent() {
        let (published, names) = Published::new();
        let start = tokio::time::Instant::now();
        let found = published.destination(&name("a:80"), Duration::from_mins(1)).await;
        assert!(matches!(found, Lookup::Pending));
        assert_eq!(start.elapsed(), MAX_WAIT, "no wait is longer");
        drop(names);
        let found = published.destination(&name("b:80"), MAX_WAIT).await;
        assert!(
            matches!(found, Lookup::Pending),
            "a control thread that ended holds nobody up"
        );
        assert_eq!(start.elapsed(), MAX_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_questions_are_answered_at_once() {
        let (published, _names) = Published::new();
        for _ in 0..MAX_REQUESTED {
            published.requested.try_send(name("x")).unwrap();
        }
        let start = tokio::time::Instant::now();
        assert!(matches!(
            published.destination(&name("a:80"), MAX_WAIT).await,
            Lookup::Pending
        ));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn use_is_noted_across_publications() {
        let (published, _names) = Published::new();
        let mut store = store();
        store.apply(vec![listener()], Vec::new());
        let snapshot = Arc::new(store.link(&Snapshot::default()));
        published.publish(Arc::clone(&snapshot));
        published.load().lookup("a:80");
        published.publish(snapshot);
        published.load().lookup("unknown:80");
        assert_eq!(published.take_used(), BTreeSet::from([name("a:80")]));
        assert_eq!(published.take_used(), BTreeSet::new());
    }
}
