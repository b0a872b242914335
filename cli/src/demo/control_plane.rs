//! The demo's control plane: kept up like a replica, always on the port that the sidecars know.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::processes::{Event, Process, ProcessError};
use super::replica::RESTART;
use super::site::Site;

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the control plane is.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Up.
    Running {
        /// Process id.
        pid: u32,
        /// Its status page.
        status: SocketAddr,
        /// Its admin page.
        admin: SocketAddr,
    },
    /// Ended; why, and when it comes back.
    Down(String, Instant),
}

/// Where it listens.
#[derive(Debug, Deserialize)]
pub(crate) struct Ports {
    pub(crate) xds: SocketAddr,
    status: SocketAddr,
    admin: SocketAddr,
}

/// A control plane that has been started.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    process: Process,
    pub(crate) ports: Ports,
}

impl ControlPlane {
    /// Starts it; `listen` is where it listened before.
    pub(crate) async fn start(site: &Site, listen: Option<SocketAddr>) -> Result<Self, ProcessError> {
        let name = "control-plane";
        let mut process = Process::start(name, &site.control_plane(listen), &site.log(name))?;
        let ports = process.listening().await?;
        Ok(Self { process, ports })
    }

    /// Up, and where.
    pub(crate) fn state(&self) -> State {
        State::Running {
            pid: self.process.pid(),
            status: self.ports.status,
            admin: self.ports.admin,
        }
    }

    /// Waits until it ends or has to; tells how it ended by itself.
    async fn live(&mut self, stop: &CancellationToken) -> Option<String> {
        let mut event = None;
        while event.is_none() {
            event = match stop.run_until_cancelled(self.process.event()).await {
                Some(Event::Ended(how)) => Some(how),
                Some(Event::Stopping) => None,
                None => {
                    self.process.signal(Signal::TERM);
                    let _ = self.process.end(PATIENCE).await;
                    return None;
                }
            };
        }
        event
    }
}

/// Keeps it up until `stop`.
pub(crate) async fn keep(
    mut running: ControlPlane,
    site: Arc<Site>,
    board: watch::Sender<State>,
    stop: CancellationToken,
) {
    let listen = running.ports.xds;
    loop {
        board.send_replace(running.state());
        let Some(mut why) = running.live(&stop).await else {
            return;
        };
        running = loop {
            board.send_replace(State::Down(why, Instant::now() + RESTART));
            if stop.run_until_cancelled(sleep(RESTART)).await.is_none() {
                return;
            }
            match ControlPlane::start(&site, Some(listen)).await {
                Ok(started) => break started,
                Err(error) => why = error.to_string(),
            }
        };
    }
}
