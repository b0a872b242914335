//! A data worker: one thread, one current-thread runtime, and all that its connections share.
//!
//! Nothing here is shared with another worker but immutable configuration and the relaxed counts inside it, so state
//! lives in cells, and no lock is ever taken. A borrow of a cell never spans an await.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use metrics::{counter, gauge};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval};
use weft_proxy_core::authority::Authority;
use weft_proxy_core::cluster::{ClusterEntry, ClusterState};
use weft_proxy_core::exchange::{Action, Event, Exchange};
use weft_proxy_core::resource::Name;
use weft_proxy_core::snapshot::Lookup;
use weft_proxy_core::time::Now;

use crate::config::{AccessLogMode, Config};
use crate::dial::until;
use crate::drain::Tracker;
use crate::identity::ClientConfigs;
use crate::listener::{self, Admission};
use crate::memory::{Memory, Pressure};
use crate::published::{MAX_WAIT, Published};
use crate::runtime::{Phase, ReportRequest, WorkerContext, WorkerListeners};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::{Direction, Edge, counting_panics};
use crate::upstream::Upstream;
use crate::{inbound, outbound, socket};

/// Of how many exchanges one is logged when a sample is wanted.
const SAMPLE: u32 = 100;
/// Authorities whose full names are remembered.
const MAX_NAMES: usize = 4096;

/// See the module's head.
#[derive(Debug)]
pub struct Worker {
    /// The settings.
    pub config: Arc<Config>,
    /// Configuration and identity.
    pub published: Arc<Published>,
    /// The connections that were accepted.
    pub tracker: Rc<Tracker>,
    /// The connections that were made.
    pub upstream: Upstream,
    /// TLS set-ups for dialling.
    pub client_configs: RefCell<ClientConfigs>,
    /// The worker's own source of randomness.
    pub rng: RefCell<fastrand::Rng>,
    admission: Rc<Admission>,
    running: Arc<AtomicUsize>,
    started: Instant,
    clusters: RefCell<HashMap<Name, Rc<Target>>>,
    edges: RefCell<HashMap<(Name, Direction), Rc<Edge>>>,
    names: RefCell<HashMap<Authority, Name>>,
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
            config,
            published,
            tracker: Tracker::new(Arc::clone(&running)),
            upstream: Upstream::default(),
            client_configs: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            admission: Rc::default(),
            running,
            started,
            clusters: RefCell::default(),
            edges: RefCell::default(),
            names: RefCell::default(),
            log,
            until_sample: Cell::new(0),
            memory: Memory::new(),
            pressure: Cell::default(),
        })
    }

    /// The moment. Read once at the beginning of what an exchange does between two waits.
    pub fn now(&self) -> Now {
        Now::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// A moment of the wall clock on the worker's own.
    pub fn at(&self, moment: SystemTime) -> Now {
        self.now() + until(moment)
    }

    /// The instant for timers.
    pub fn instant(&self, moment: Now) -> tokio::time::Instant {
        (self.started + Duration::from_nanos(moment.as_nanos())).into()
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
        let name: Name = self.config.scope.expand(authority, default_port).into();
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
        match self.published.load().lookup(name) {
            Lookup::Pending => self.published.destination(name, MAX_WAIT).await,
            found => found,
        }
    }

    /// The cluster's state, brought up to date with `entry`.
    pub fn target(&self, entry: &Arc<ClusterEntry>, now: Now) -> Rc<Target> {
        let name = &entry.config.name;
        if let Some(target) = self.clusters.borrow().get(name) {
            target.state.borrow_mut().update(Arc::clone(entry), now);
            return Rc::clone(target);
        }
        let target = Rc::new(Target {
            state: RefCell::new(ClusterState::new(
                Arc::clone(entry),
                Name::clone(&self.config.zone),
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
        let rng = &mut *self.rng.borrow_mut();
        exchange.step(event, self.now(), rng, &mut target.state.borrow_mut())
    }

    /// The log, whatever its sampling.
    pub fn log_sink(&self) -> Option<&AccessLog> {
        self.log.as_ref()
    }

    /// The log, if the exchange that begins now is to be logged.
    pub fn log(&self) -> Option<&AccessLog> {
        let log = self.log.as_ref()?;
        match self.config.access_log {
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
    fn sweep(self: &Rc<Self>) {
        self.pressure.set(self.memory.pressure());
        if self.pressure() == Pressure::Full {
            self.tracker.finish_idle();
        }
        self.tracker.sweep();
        self.upstream.sweep(self);
        let view = self.published.load();
        let known = |name: &Name| view.snapshot.clusters.contains_key(name);
        self.clusters
            .borrow_mut()
            .retain(|name, target| known(name) || Rc::strong_count(target) > 1);
        self.edges.borrow_mut().retain(|(name, direction), edge| {
            *direction == Direction::Inbound || known(name) || Rc::strong_count(edge) > 1
        });
    }

    /// What an operator sees.
    fn report(&self) -> serde_json::Value {
        let now = self.now();
        let clusters: Vec<_> = self
            .clusters
            .borrow()
            .values()
            .map(|target| crate::telemetry::report::cluster(&target.state.borrow().report(now)))
            .collect();
        serde_json::json!({
            "connections": self.tracker.open(),
            "exchanges": self.running.load(Ordering::Relaxed),
            "upstream_connections": self.upstream.open(),
            "clusters": clusters,
        })
    }
}

/// Runs a worker until it has drained or its time is up. To be called inside a `LocalSet` on the worker's own runtime.
pub async fn run(context: WorkerContext, listeners: WorkerListeners, log: Option<AccessLog>) {
    let WorkerContext {
        index,
        config,
        published,
        phase,
        reports,
        started,
        running,
    } = context;
    let worker = Worker::new(config, published, started, log, running);
    let mut accepting = match listen(&worker, listeners) {
        Ok(accepting) => accepting,
        Err(error) => {
            tracing::error!(%error, index, "a worker can't use its listening sockets");
            return;
        }
    };
    let mut chores = JoinSet::new();
    chores.spawn_local(sweep(Rc::clone(&worker), index));
    chores.spawn_local(answer(Rc::clone(&worker), reports));
    drain(&worker, phase).await;
    accepting.abort_all();
    chores.abort_all();
}

/// Starts an accept loop for each listening socket.
fn listen(worker: &Rc<Worker>, listeners: WorkerListeners) -> std::io::Result<JoinSet<()>> {
    let mut accepting = JoinSet::new();
    let mut accept = |listener: std::net::TcpListener, port: Port| {
        let listener = TcpListener::from_std(listener)?;
        let worker = Rc::clone(worker);
        accepting.spawn_local(async move {
            let admission = Rc::clone(&worker.admission);
            listener::accept(listener, admission, |tcp, peer, place| {
                if worker.pressure() == Pressure::Full {
                    return socket::reset_on_close(&tcp);
                }
                let (worker, port) = (Rc::clone(&worker), port.clone());
                spawn_local(counting_panics(async move {
                    let _place = place;
                    port.serve(worker, tcp, peer).await;
                }));
            })
            .await;
        });
        Ok::<(), std::io::Error>(())
    };
    if let Some(socket) = listeners.outbound {
        accept(socket, Port::Outbound)?;
    }
    for (socket, bind) in listeners.binds.into_iter().zip(&worker.config.binds) {
        accept(socket, Port::Bind(worker.config.expand(&bind.authority)))?;
    }
    for (socket, inbound) in listeners.inbound.into_iter().zip(&worker.config.inbound) {
        let port = socket.local_addr()?.port();
        accept(
            socket,
            Port::Inbound {
                port,
                app: inbound.app,
            },
        )?;
    }
    Ok(accepting)
}

/// What a listening socket is for.
#[derive(Clone)]
enum Port {
    Outbound,
    Bind(Name),
    Inbound { port: u16, app: SocketAddr },
}

impl Port {
    async fn serve(self, worker: Rc<Worker>, tcp: tokio::net::TcpStream, peer: SocketAddr) {
        match self {
            Self::Outbound => outbound::explicit(worker, tcp, peer).await,
            Self::Bind(name) => outbound::bound(worker, tcp.into(), peer, name).await,
            Self::Inbound { port, app } => inbound::connection(worker, tcp, peer, port, app).await,
        }
    }
}

async fn sweep(worker: Rc<Worker>, index: usize) {
    let mut every_second = interval(Duration::from_secs(1));
    every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (connections, own) = (gauge!("weft_outbound_open_connections"), index.to_string());
    let upstream = gauge!("weft_upstream_open_connections", "worker" => own);
    let mut ejections: HashMap<Name, u64> = HashMap::new();
    loop {
        every_second.tick().await;
        worker.sweep();
        upstream.set(worker.upstream.open() as f64);
        if index == 0 {
            connections.set(tell_clusters(&worker, &mut ejections));
        }
    }
}

/// Tells what all workers share of each cluster, and returns the number of connections to endpoints.
fn tell_clusters(worker: &Worker, told: &mut HashMap<Name, u64>) -> f64 {
    let view = worker.published.load();
    let mut connections = 0.0;
    for (name, entry) in &view.snapshot.clusters {
        connections += f64::from(entry.shared.connections.value());
        let ejections = entry.shared.ejections();
        let before = told.insert(Name::clone(name), ejections).unwrap_or(0);
        if ejections > before {
            counter!("weft_endpoint_ejections_total", "destination" => name.to_string())
                .increment(ejections - before);
        }
        if entry.config.service_breaker.is_some() {
            crate::telemetry::report::tell_breaker(name, entry.shared.breaker().phase());
        }
    }
    told.retain(|name, _| view.snapshot.clusters.contains_key(name));
    connections
}

async fn answer(worker: Rc<Worker>, mut reports: mpsc::Receiver<ReportRequest>) {
    while let Some(request) = reports.recv().await {
        // Who asked may have gone.
        let _ = request.send(worker.report());
    }
}

/// Waits until it is time to end, and nothing runs or time is up.
async fn drain(worker: &Rc<Worker>, mut phase: watch::Receiver<Phase>) {
    if phase.wait_for(|phase| *phase != Phase::Serving).await.is_err() {
        return;
    }
    worker.tracker.drain();
    // When nothing runs any more on any worker, or the time is up, is not for one worker to say.
    let _ = phase.wait_for(|phase| *phase == Phase::Ending).await;
    worker.tracker.abort();
    tokio::task::yield_now().await;
}
