//! The process, wired top-down: settings, sockets, workers, then the control thread with everything that isn't traffic.
//!
//! ```text
//! RunArgs ─▶ Config ─▶ Sockets ─▶ workers (worker.rs)            control thread: certificate, registration, xds,
//!                        └─▶ stdout: {"listening": …}                            admin, status, life cycle
//! ```
//!
//! Life: ready with certificate and configuration; SIGTERM withdraws, drains and ends (`proxy/core/drain`); a second
//! one, or the end of the drain time, ends at once.

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, timeout};
use weft_identity::files::{self, FileError};
use weft_ops::admin::AdminError;
use weft_ops::health::Health;
use weft_ops::log::{Log, LogError};
use weft_ops::recorder::{Recorder, RecorderError};
use weft_ops::signal::Signals;
use weft_proxy_core::drain::{self, Lifecycle};
use weft_proxy_core::resource::Name;
use weft_proxy_core::time::Now;

use crate::certificate::{self, Certificates, SignError};
use crate::config::{AccessLogMode, Config, ConfigErrors, RunArgs};
use crate::published::Published;
use crate::registration::{self, Registrar};
use crate::runtime::{self, Phase, ReportRequest, WorkerContext, WorkerListeners};
use crate::sockets::{BindError, Sockets};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::begin_at_zero;
use crate::xds::client::{Client, Inputs};
use crate::xds::state;
use crate::{admin, health_check};

/// Reports that wait for an answer, per part.
const MAX_WAITING_REPORTS: usize = 8;
/// How often the end of a drain is looked for.
const DRAIN_TICK: Duration = Duration::from_millis(25);
/// Time for workers and the registrar to end once the process ends.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// Readiness condition that a drain takes away.
const SERVING: &str = "serving";

/// Why the process didn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The metrics.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] FileError),
    /// The trust bundle.
    #[error(transparent)]
    Certificate(#[from] SignError),
    /// A listening socket.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Threads, signals, sockets.
    #[error("the process can't be set up: {0}")]
    Io(#[from] io::Error),
}

/// Runs a proxy until it is told to end. Exit code 2 for wrong settings, 1 when it can't start or a worker breaks.
pub fn run(args: &RunArgs) -> ExitCode {
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft-proxy: {error}");
            ExitCode::from(if matches!(error, StartError::Config(_)) {
                2
            } else {
                1
            })
        }
    }
}

fn start(args: &RunArgs) -> Result<ExitCode, StartError> {
    let mut config = Config::new(args, runtime::default_workers())?;
    let log = weft_ops::log::init(&config.log_level)?;
    let recorder = weft_ops::recorder::install()?;
    weft_ops::panics::install();
    begin_at_zero();
    weft_ops::descriptors::raise_limit();
    files::create_private_directory(&config.state_dir)?;
    let sockets = Sockets::bind(&config)?;
    config.own_addresses = sockets.own_addresses()?;
    let config = Arc::new(config);
    let (published, asked) = Published::new();
    let health = health(&config);
    let certificates = Certificates::load(Arc::clone(&config), Arc::clone(&published), health.clone())?;
    weft_ops::announce::listening(&sockets.addresses(&config)?);
    let inbound_ports = sockets.inbound_ports()?;
    let Sockets {
        workers,
        status,
        admin,
    } = sockets;
    let (workers, ended) = Workers::spawn(&config, &published, workers)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let parts = Parts {
        config,
        published,
        health,
        recorder,
        log,
        certificates,
        workers,
        inbound_ports,
    };
    let code = runtime.block_on(control(parts, asked, status, admin, ended));
    // A blocking save may still run; it is not waited for.
    runtime.shutdown_background();
    code
}

fn health(config: &Config) -> Health {
    let mut conditions = vec![certificate::CONDITION, state::CONDITION, SERVING];
    if !config.registrations.is_empty() {
        conditions.push(registration::CONDITION);
    }
    let health = Health::new(&conditions);
    health.set(SERVING, true);
    health
}

/// The workers, from outside.
struct Workers {
    phase: watch::Sender<Phase>,
    running: Arc<AtomicUsize>,
    reports: Vec<mpsc::Sender<ReportRequest>>,
    started: Instant,
}

impl Workers {
    /// Starts them. The receiver yields a message for each that has ended.
    fn spawn(
        config: &Arc<Config>,
        published: &Arc<Published>,
        listeners: Vec<WorkerListeners>,
    ) -> io::Result<(Self, mpsc::Receiver<()>)> {
        let log = match config.access_log {
            AccessLogMode::Off => None,
            AccessLogMode::On | AccessLogMode::Sample => Some(AccessLog::start(io::stderr())?),
        };
        let (ended, all_ended) = mpsc::channel(config.workers);
        let mut workers = Self {
            phase: watch::Sender::new(Phase::Serving),
            running: Arc::default(),
            reports: Vec::new(),
            started: Instant::now(),
        };
        for (index, listeners) in listeners.into_iter().enumerate() {
            let (reports, requests) = mpsc::channel(MAX_WAITING_REPORTS);
            workers.reports.push(reports);
            let context = WorkerContext {
                index,
                config: Arc::clone(config),
                published: Arc::clone(published),
                phase: workers.phase.subscribe(),
                reports: requests,
                started: workers.started,
                running: Arc::clone(&workers.running),
            };
            runtime::spawn(context, listeners, log.clone(), ended.clone())?;
        }
        Ok((workers, all_ended))
    }

    fn now(&self) -> Now {
        Now::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// What the control thread works with.
struct Parts {
    config: Arc<Config>,
    published: Arc<Published>,
    health: Health,
    recorder: Recorder,
    log: Log,
    certificates: Certificates,
    workers: Workers,
    inbound_ports: Vec<u16>,
}

async fn control(
    parts: Parts,
    asked: mpsc::Receiver<Name>,
    status: TcpListener,
    admin: TcpListener,
    mut ended: mpsc::Receiver<()>,
) -> Result<ExitCode, StartError> {
    let signals = Signals::new()?;
    let Parts {
        config,
        published,
        health,
        recorder,
        log,
        certificates,
        workers,
        inbound_ports,
    } = parts;
    let mut tasks = JoinSet::new();
    let pages = {
        let config = Arc::clone(&config);
        move |path: &str, head: &http::HeaderMap| config.capture.probes.answer(path, head)
    };
    let served = weft_ops::status::serve_with(status, health.clone(), recorder.clone(), pages)?;
    tasks.spawn(served);
    tasks.spawn(recorder.run_upkeep());
    let (roots, new_roots) = watch::channel(None);
    tasks.spawn(certificates.run(new_roots));
    let registrar = (!config.registrations.is_empty()).then(|| {
        let (well, application) = watch::channel(false);
        tasks.spawn(health_check::run(Arc::clone(&config), well));
        Registrar::new(
            Arc::clone(&config),
            Arc::clone(&published),
            health.clone(),
            &inbound_ports,
            application,
        )
    });
    let registered = registrar.as_ref().map(Registrar::registered);
    let withdrawn = registrar.map(|registrar| tokio::spawn(registrar.run(workers.phase.subscribe())));
    let (stream, reports) = mpsc::channel(MAX_WAITING_REPORTS);
    let inputs = Inputs { asked, reports };
    let client = Client::start(
        Arc::clone(&config),
        Arc::clone(&published),
        health.clone(),
        roots,
        inputs,
    );
    tasks.spawn(async move { client.await.run(registered).await });
    let (drain, drain_asked) = mpsc::channel(1);
    let (served, calls) = weft_ops::admin::serve(admin, log)?;
    tasks.spawn(served);
    let reports = workers.reports.clone();
    let sources = admin::Sources {
        config: Arc::clone(&config),
        published,
        health: health.clone(),
        stream,
        workers: reports,
        drain,
    };
    tasks.spawn(admin::answer(sources, calls));
    let asked = (signals, drain_asked);
    let code = live(&config, &health, &workers, asked, &mut ended, tasks).await;
    end(withdrawn, &mut ended).await;
    Ok(code)
}

/// From the start to the end of the drain.
async fn live(
    config: &Config,
    health: &Health,
    workers: &Workers,
    (mut signals, mut drain_asked): (Signals, mpsc::Receiver<()>),
    ended: &mut mpsc::Receiver<()>,
    mut tasks: JoinSet<()>,
) -> ExitCode {
    let mut life = Lifecycle::new(config.drain_time);
    let mut tick = interval(DRAIN_TICK);
    let mut code = ExitCode::SUCCESS;
    loop {
        let phase = tokio::select! {
            () = health.ready(), if life.phase() == drain::Phase::Starting => {
                weft_ops::announce::ready();
                tracing::info!("ready");
                life.became_ready()
            }
            () = signals.next() => life.asked_to_end(workers.now()),
            Some(()) = drain_asked.recv(), if life.phase() < drain::Phase::Draining => life.asked_to_end(workers.now()),
            _ = tick.tick(), if life.phase() == drain::Phase::Draining => {
                life.tick(workers.now(), workers.running.load(Ordering::Relaxed))
            }
            Some(()) = ended.recv() => {
                tracing::error!("a worker has ended; so does the process, to be started anew");
                code = ExitCode::FAILURE;
                life.asked_to_end(workers.now())
            }
            // Without configuration, certificates or a way to ask how it does, it would only seem well.
            Some(_) = tasks.join_next() => {
                tracing::error!("a part of the control thread has ended; so does the process, to be started anew");
                code = ExitCode::FAILURE;
                life.asked_to_end(workers.now())
            }
        };
        match phase {
            drain::Phase::Starting | drain::Phase::Ready => {}
            drain::Phase::Draining => begin_drain(health, workers),
            drain::Phase::Ended => break,
        }
    }
    workers.phase.send_replace(Phase::Ending);
    code
}

fn begin_drain(health: &Health, workers: &Workers) {
    if workers
        .phase
        .send_if_modified(|phase| std::mem::replace(phase, Phase::Draining) == Phase::Serving)
    {
        tracing::info!(running = workers.running.load(Ordering::Relaxed), "draining");
        health.set(SERVING, false);
    }
}

/// Lets the workers close what is left, and the registrar say goodbye.
async fn end(withdrawn: Option<JoinHandle<()>>, workers_ended: &mut mpsc::Receiver<()>) {
    let all = async {
        while workers_ended.recv().await.is_some() {}
        if let Some(withdrawn) = withdrawn {
            let _ = withdrawn.await;
        }
    };
    if timeout(END_TIMEOUT, all).await.is_err() {
        tracing::warn!("not everything has ended in time");
    }
    tracing::info!("ended");
}
