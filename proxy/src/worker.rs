//! A data worker: one thread, one current-thread runtime, and all that its connections share.
//!
//! Nothing here is shared with another worker but immutable configuration and the relaxed counts inside it, so state
//! lives in cells, and no lock is ever taken. A borrow of a cell never spans an await.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use weft_proxy_core::authority::Authority;
use weft_proxy_core::cluster::{ClusterEntry, ClusterState};
use weft_proxy_core::exchange::{Action, Event, Exchange};
use weft_proxy_core::resource::Name;
use weft_proxy_core::snapshot::Lookup;

use crate::config::{AccessLogMode, Config};
use crate::drain::Tracker;
use crate::listener::Admission;
use crate::local::Local;
use crate::memory::{Memory, Pressure};
use crate::published::{MAX_WAIT, Published};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::{Direction, Edge};
use crate::telemetry::report;
use crate::upstream::Upstream;

/// Of how many exchanges one is logged when a sample is wanted.
const SAMPLE: u32 = 100;
/// Authorities whose full names are remembered.
const MAX_NAMES: usize = 4096;
/// Destinations of which it is remembered that their servers speak first.
const MAX_LEARNED: usize = 4096;

/// See the module's head.
#[derive(Debug)]
pub struct Worker {
    /// What everything on it uses.
    pub local: Rc<Local>,
    /// The connections that were accepted.
    pub tracker: Rc<Tracker>,
    /// The connections that were made.
    pub upstream: Upstream,
    /// Places for connections.
    pub admission: Rc<Admission>,
    running: Arc<AtomicUsize>,
    clusters: RefCell<HashMap<Name, Rc<Target>>>,
    edges: RefCell<HashMap<(Name, Direction), Rc<Edge>>>,
    names: RefCell<HashMap<Authority, Name>>,
    server_first: RefCell<HashSet<Name>>,
    log: Option<AccessLog>,
    until_sample: Cell<u32>,
    memory: Memory,
    pressure: Cell<Pressure>,
}

/// A cluster as this worker uses it.
#[derive(Debug)]
pub struct Target {
    /// Which endpoint is next, and what is known about each.
    pub state: RefCell<ClusterState>,
    /// Its metrics.
    pub edge: Rc<Edge>,
}

impl Worker {
    /// A worker that serves nothing yet.
    pub fn new(
        config: Arc<Config>,
        published: Arc<Published>,
        started: Instant,
        log: Option<AccessLog>,
        running: Arc<AtomicUsize>,
    ) -> Rc<Self> {
        Rc::new(Self {
            local: Rc::new(Local::new(config, published, started)),
            tracker: Tracker::new(Arc::clone(&running)),
            upstream: Upstream::default(),
            admission: Rc::default(),
            running,
            clusters: RefCell::default(),
            edges: RefCell::default(),
            names: RefCell::default(),
            server_first: RefCell::default(),
            log,
            until_sample: Cell::new(0),
            memory: Memory::new(),
            pressure: Cell::default(),
        })
    }

    /// How near the process is to its memory limit.
    pub fn pressure(&self) -> Pressure {
        self.pressure.get()
    }

    /// The full name that a destination is asked for by.
    pub fn name_of(&self, authority: &Authority, default_port: u16) -> Name {
        let usual = default_port == crate::config::DEFAULT_PORT || authority.port.is_some();
        if usual && let Some(name) = self.names.borrow().get(authority) {
            return Name::clone(name);
        }
        let name: Name = self.local.config.scope.expand(authority, default_port).into();
        if usual {
            let mut names = self.names.borrow_mut();
            if names.len() >= MAX_NAMES {
                names.clear();
            }
            names.insert(authority.clone(), Name::clone(&name));
        }
        name
    }

    /// What is known of a destination, waiting for the control plane's answer if need be.
    pub async fn destination(&self, name: &Name) -> Lookup {
        match self.local.published.load().lookup(name) {
            Lookup::Pending => Box::pin(self.local.published.destination(name, MAX_WAIT)).await,
            found => found,
        }
    }

    /// Whether the server of an undeclared destination spoke first the last time. It is then connected to at once.
    pub fn is_server_first(&self, name: &Name) -> bool {
        self.server_first.borrow().contains(name)
    }

    /// Remembers who spoke first on a connection to an undeclared destination.
    pub fn learn_server_first(&self, name: &Name, server: bool) {
        let mut learned = self.server_first.borrow_mut();
        if !server {
            learned.remove(name);
        } else if !learned.contains(name) {
            if learned.len() >= MAX_LEARNED {
                learned.clear();
            }
            learned.insert(Name::clone(name));
        }
    }

    /// The cluster's state, brought up to date with `entry`.
    pub fn target(&self, entry: &Arc<ClusterEntry>) -> Rc<Target> {
        let name = &entry.config.name;
        if let Some(target) = self.clusters.borrow().get(name) {
            target.state.borrow_mut().update(Arc::clone(entry));
            return Rc::clone(target);
        }
        let target = Rc::new(Target {
            state: RefCell::new(ClusterState::new(
                Arc::clone(entry),
                Name::clone(&self.local.config.zone),
            )),
            edge: self.edge(name, Direction::Outbound),
        });
        self.clusters
            .borrow_mut()
            .insert(Name::clone(name), Rc::clone(&target));
        target
    }

    /// The metrics of a destination or of a Service of ours.
    pub fn edge(&self, name: &Name, direction: Direction) -> Rc<Edge> {
        let mut edges = self.edges.borrow_mut();
        let key = (Name::clone(name), direction);
        Rc::clone(
            edges
                .entry(key)
                .or_insert_with(|| Rc::new(Edge::new(Name::clone(name), direction))),
        )
    }

    /// Lets an exchange decide.
    pub fn step(&self, exchange: &mut Exchange<'_>, event: Event, target: &Target) -> Action {
        let rng = &mut *self.local.rng.borrow_mut();
        exchange.step(event, self.local.now(), rng, &mut target.state.borrow_mut())
    }

    /// The log, whatever its sampling.
    pub fn log_sink(&self) -> Option<&AccessLog> {
        self.log.as_ref()
    }

    /// The log, if the exchange that begins now is to be logged.
    pub fn log(&self) -> Option<&AccessLog> {
        let log = self.log.as_ref()?;
        match self.local.config.access_log {
            AccessLogMode::On => Some(log),
            AccessLogMode::Off => None,
            AccessLogMode::Sample => {
                let left = self.until_sample.get();
                self.until_sample.set(left.checked_sub(1).unwrap_or(SAMPLE - 1));
                (left == 0).then_some(log)
            }
        }
    }

    /// Once a second: what is not worth a timer of its own.
    pub fn sweep(&self) {
        self.pressure.set(self.memory.pressure());
        if self.pressure() == Pressure::Full {
            self.tracker.finish_idle();
        }
        self.tracker.sweep();
        self.upstream.sweep(&self.local);
        let view = self.local.published.load();
        let known = |name: &Name| view.snapshot.clusters.contains_key(name);
        self.clusters
            .borrow_mut()
            .retain(|name, target| known(name) || Rc::strong_count(target) > 1);
        self.edges.borrow_mut().retain(|(name, direction), edge| {
            *direction == Direction::Inbound || known(name) || Rc::strong_count(edge) > 1
        });
    }

    /// What an operator sees.
    pub fn report(&self) -> serde_json::Value {
        let now = self.local.now();
        let clusters: Vec<_> = self
            .clusters
            .borrow()
            .values()
            .map(|target| report::cluster(&target.state.borrow().report(now)))
            .collect();
        serde_json::json!({
            "connections": self.tracker.open(),
            "exchanges": self.running.load(Ordering::Relaxed),
            "upstream_connections": self.upstream.open(),
            "clusters": clusters,
        })
    }
}
