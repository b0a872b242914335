//! A worker at work: accept loops, what each listening socket is for, chores of every second, and the end.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval};
use weft_proxy_core::resource::Name;

use crate::config::Config;
use crate::memory::Pressure;
use crate::published::Published;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::{destination_label, outliving_panics};
use crate::telemetry::report;
use crate::worker::Worker;
use crate::{inbound, listener, outbound, socket};

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Serving.
    #[default]
    Serving,
    /// Told to end: no longer ready, still accepting, every connection asked to go away after what it does.
    Draining,
    /// Nothing runs any more, or time is up: what is left is cut.
    Ending,
}

/// Asks a worker what it sees (endpoint states, connections), for the admin listener.
pub type ReportRequest = oneshot::Sender<serde_json::Value>;

/// What a worker is given.
#[derive(Debug)]
pub struct WorkerContext {
    /// Which worker, from 0.
    pub index: usize,
    /// The settings.
    pub config: Arc<Config>,
    /// Configuration and identity.
    pub published: Arc<Published>,
    /// When the process should end.
    pub phase: watch::Receiver<Phase>,
    /// Answered with a JSON object each.
    pub reports: mpsc::Receiver<ReportRequest>,
    /// The start of time, the same for all workers: `Now` counts from here.
    pub started: Instant,
    /// Exchanges and tunnels that run, counted by all workers together.
    pub running: Arc<AtomicUsize>,
}

/// The listening sockets of one worker, in the order of the settings.
#[derive(Debug, Default)]
pub struct WorkerListeners {
    /// The explicit outbound port.
    pub outbound: Option<TcpListener>,
    /// As [`Config::binds`].
    pub binds: Vec<TcpListener>,
    /// As [`Config::inbound`].
    pub inbound: Vec<TcpListener>,
    /// Where outbound connections are led to, one for each address family.
    pub captured_outbound: Vec<TcpListener>,
    /// Where inbound connections are led to, one for each address family.
    pub captured_inbound: Vec<TcpListener>,
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
    let mut accept = |socket: TcpListener, port: Port| {
        let listener = tokio::net::TcpListener::from_std(socket)?;
        let worker = Rc::clone(worker);
        accepting.spawn_local(async move {
            let admission = Rc::clone(&worker.admission);
            listener::accept(listener, admission, |tcp, peer, place| {
                if worker.pressure() == Pressure::Full {
                    return socket::reset_on_close(&tcp);
                }
                let (worker, port) = (Rc::clone(&worker), port.clone());
                spawn_local(outliving_panics(async move {
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
    for (socket, bind) in listeners.binds.into_iter().zip(&worker.local.config.binds) {
        accept(socket, Port::Bind(worker.local.config.expand(&bind.authority)))?;
    }
    for (socket, inbound) in listeners.inbound.into_iter().zip(&worker.local.config.inbound) {
        let port = socket.local_addr()?.port();
        accept(
            socket,
            Port::Inbound {
                port,
                app: inbound.app,
            },
        )?;
    }
    for socket in listeners.captured_outbound {
        accept(socket, Port::CapturedOutbound)?;
    }
    for socket in listeners.captured_inbound {
        accept(socket, Port::CapturedInbound)?;
    }
    Ok(accepting)
}

/// What a listening socket is for.
#[derive(Clone)]
enum Port {
    Outbound,
    Bind(Name),
    Inbound { port: u16, app: SocketAddr },
    CapturedOutbound,
    CapturedInbound,
}

impl Port {
    async fn serve(self, worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr) {
        match self {
            Self::Outbound => outbound::explicit(worker, tcp, peer).await,
            Self::Bind(name) => outbound::bound(worker, tcp.into(), peer, name).await,
            Self::Inbound { port, app } => inbound::connection(worker, tcp, peer, port, app).await,
            Self::CapturedOutbound => outbound::captured(worker, tcp, peer).await,
            Self::CapturedInbound => inbound::captured(worker, tcp, peer).await,
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
    let view = worker.local.published.load();
    let mut connections = 0.0;
    for (name, entry) in &view.snapshot.clusters {
        connections += f64::from(entry.shared.connections.value());
        let ejections = entry.shared.ejections();
        let before = told.insert(Name::clone(name), ejections).unwrap_or(0);
        if ejections > before {
            counter!("weft_endpoint_ejections_total", "destination" => destination_label(name))
                .increment(ejections - before);
        }
        if entry.config.service_breaker.is_some() {
            report::tell_breaker(name, entry.shared.breaker().phase());
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
