//! One replica: an application and its sidecar, which begin and end together.
//!
//! Killed: the other one is killed at once. Asked to end (SIGTERM to the application): the sidecar is asked to drain
//! first, the application serves on while the mesh forgets about it, and is let go then; nothing is lost. Whatever
//! ended it, it is started again [`RESTART`] later.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::processes::{Event, Process, ProcessError};
use super::site::Site;
use super::topology::{Replica, Role};
use crate::shop::Peers;

/// How long what ended stays away.
pub(crate) const RESTART: Duration = Duration::from_secs(10);

/// How long an application serves on after its sidecar was asked to drain: longer than the news takes to spread.
const LAME_DUCK: Duration = Duration::from_secs(1);

/// How long a process that was asked to end may take.
const PATIENCE: Duration = Duration::from_secs(12);

/// How a replica is.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// On its way up.
    Starting,
    /// Serving.
    Running(Running),
    /// Asked to end, serving what is left.
    Stopping(Running),
    /// Ended; why, and when it comes back.
    Down(String, Instant),
}

impl State {
    /// Its processes, while there are any.
    pub(crate) fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) | Self::Stopping(running) => Some(running),
            Self::Starting | Self::Down(..) => None,
        }
    }
}

/// The processes of a replica that is up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    /// Process id of the application: the one to send signals to.
    pub(crate) application: u32,
    /// Process id of the sidecar.
    pub(crate) sidecar: u32,
    /// The sidecar's port for outgoing requests.
    pub(crate) outbound: SocketAddr,
    /// The sidecar's status page.
    pub(crate) status: SocketAddr,
}

/// All replicas by name.
pub(crate) type Board = watch::Sender<BTreeMap<String, State>>;

/// What all replicas share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) site: Arc<Site>,
    pub(crate) board: Board,
    pub(crate) control_plane: SocketAddr,
    /// Requests per second of the load generator.
    pub(crate) rate: u32,
    /// The load generator ends; everything else goes on.
    pub(crate) quiet: CancellationToken,
    /// The load generator has ended: no request is under way any more.
    pub(crate) silent: CancellationToken,
    /// Everything ends.
    pub(crate) stop: CancellationToken,
}

#[derive(Debug, Deserialize)]
struct ApplicationPorts {
    http: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
    mqtt: Option<SocketAddr>,
}

#[derive(Debug, Deserialize)]
struct SidecarPorts {
    outbound: SocketAddr,
    #[serde(default)]
    bind: BTreeMap<String, SocketAddr>,
    status: SocketAddr,
}

/// Both processes of a replica that is up.
#[derive(Debug)]
struct Pair {
    application: Process,
    sidecar: Process,
    ports: SidecarPorts,
}

/// Keeps a replica up until everything stops.
pub(crate) async fn keep(replica: Replica, shared: Arc<Shared>) {
    let over = |shared: &Shared| match replica.role {
        Role::Load => shared.quiet.is_cancelled() || shared.stop.is_cancelled(),
        Role::Service(_) | Role::Broker => shared.stop.is_cancelled(),
    };
    while !over(&shared) {
        shared.show(&replica, State::Starting);
        let why = match shared.stop.run_until_cancelled(start(&replica, &shared)).await {
            Some(Ok(pair)) => live(&replica, pair, &shared).await,
            Some(Err(error)) => error.to_string(),
            None => return,
        };
        shared.show(&replica, State::Down(why, Instant::now() + RESTART));
        shared.stop.run_until_cancelled(sleep(RESTART)).await;
    }
}

impl Shared {
    fn show(&self, replica: &Replica, state: State) {
        self.board.send_modify(|board| {
            board.insert(replica.name.clone(), state);
        });
    }
}

async fn start(replica: &Replica, shared: &Shared) -> Result<Pair, ProcessError> {
    let name = &replica.name;
    let failed = |error| ProcessError::Start(name.clone(), error);
    let arguments = shared.site.application(replica, shared.rate).map_err(failed)?;
    let mut application = Process::start(name, &arguments, &shared.site.log(name))?;
    let listening: ApplicationPorts = application.listening().await?;
    let offered: Vec<SocketAddr> = [listening.http, listening.grpc, listening.mqtt]
        .into_iter()
        .flatten()
        .collect();
    let sidecar_name = format!("{name}-sidecar");
    let arguments = shared.site.sidecar(replica, &offered, shared.control_plane);
    let mut sidecar = Process::start(&sidecar_name, &arguments, &shared.site.log(&sidecar_name))?;
    let ports: SidecarPorts = sidecar.listening().await?;
    sidecar.ready().await?;
    let peers = Peers {
        outbound: ports.outbound,
        broker: ports.bind.values().next().copied(),
    };
    application.tell(&peers).await?;
    Ok(Pair {
        application,
        sidecar,
        ports,
    })
}

/// From up to down; tells why it ended.
async fn live(replica: &Replica, mut pair: Pair, shared: &Shared) -> String {
    let running = Running {
        application: pair.application.pid(),
        sidecar: pair.sidecar.pid(),
        outbound: pair.ports.outbound,
        status: pair.ports.status,
    };
    shared.show(replica, State::Running(running));
    if replica.role == Role::Load {
        tokio::select! {
            () = shared.quiet.cancelled() => return pair.fall_silent(shared).await,
            why = pair.watch(replica, running, shared) => return why,
        }
    }
    pair.watch(replica, running, shared).await
}

impl Pair {
    async fn watch(&mut self, replica: &Replica, running: Running, shared: &Shared) -> String {
        tokio::select! {
            event = self.application.event() => match event {
                Event::Stopping => {
                    shared.show(replica, State::Stopping(running));
                    self.drain(LAME_DUCK).await;
                    "asked to end".into()
                }
                Event::Ended(how) => {
                    self.sidecar.signal(Signal::KILL);
                    let _ = self.sidecar.wait().await;
                    format!("application: {how}")
                }
            },
            event = self.sidecar.event() => {
                self.application.signal(Signal::KILL);
                let _ = self.application.wait().await;
                match event {
                    Event::Stopping => "asked to end".into(),
                    Event::Ended(how) => format!("sidecar: {how}"),
                }
            }
            () = shared.stop.cancelled() => {
                self.drain(Duration::ZERO).await;
                "stopped".into()
            }
        }
    }

    /// Ends both, and loses nothing if `lame_duck` is long enough.
    async fn drain(&mut self, lame_duck: Duration) {
        self.sidecar.signal(Signal::TERM);
        sleep(lame_duck).await;
        self.application.let_go();
        let _ = self.application.end(PATIENCE).await;
        let _ = self.sidecar.end(PATIENCE).await;
    }

    /// The load generator: ends the load, keeps the sidecar for its numbers until everything stops.
    async fn fall_silent(&mut self, shared: &Shared) -> String {
        self.application.let_go();
        let _ = self.application.end(PATIENCE).await;
        shared.silent.cancel();
        shared.stop.cancelled().await;
        self.drain(Duration::ZERO).await;
        "stopped".into()
    }
}
