//! Threads: N data workers, each a current-thread runtime of its own, beside the control thread.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::published::Published;

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Serving.
    #[default]
    Serving,
    /// Told to end: no longer ready, still accepting, every connection asked to go away; a worker ends by itself
    /// when it has no stream left.
    Draining,
    /// Out of time: everything that still runs is cut.
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
}

/// The listening sockets of one worker, in the order of the settings.
#[derive(Debug, Default)]
pub struct WorkerListeners {
    /// The explicit outbound port.
    pub outbound: Option<std::net::TcpListener>,
    /// As [`Config::binds`].
    pub binds: Vec<std::net::TcpListener>,
    /// As [`Config::inbound`].
    pub inbound: Vec<std::net::TcpListener>,
}
