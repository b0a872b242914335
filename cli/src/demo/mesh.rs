//! Everything that was started, from the first process to the last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::control_plane::{self, ControlPlane};
use super::replica::{self, Shared, State};
use super::site::Site;
use super::topology::{self, Replica};

/// How long the load generator's last requests may take.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// Everything that was started.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) shared: Arc<Shared>,
    pub(crate) control_plane: watch::Receiver<control_plane::State>,
    /// All replicas, the load generator last.
    pub(crate) replicas: Vec<Replica>,
    raised: JoinSet<()>,
    /// Ends the control plane, after everything that is connected to it.
    last: CancellationToken,
    kept: JoinSet<()>,
}

impl Mesh {
    /// Starts the control plane; everything else comes up behind it.
    pub(crate) async fn start(site: Arc<Site>, rate: u32) -> anyhow::Result<Self> {
        let control_plane = ControlPlane::start(&site, None).await.with_context(|| {
            let log = site.log("control-plane");
            format!("the control plane is not up; {} may say why", log.display())
        })?;
        let mut replicas = topology::replicas();
        replicas.push(topology::load());
        for replica in &replicas {
            site.make_token(replica.service())?;
        }
        let starting = replicas
            .iter()
            .map(|replica| (replica.name.clone(), State::Starting));
        let shared = Arc::new(Shared {
            board: watch::Sender::new(starting.collect()),
            control_plane: control_plane.ports.xds,
            site: Arc::clone(&site),
            rate,
            quiet: CancellationToken::new(),
            silent: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let (states, state) = watch::channel(control_plane.state());
        let last = CancellationToken::new();
        let mut kept = JoinSet::new();
        kept.spawn(control_plane::keep(control_plane, site, states, last.clone()));
        let mut raised = JoinSet::new();
        raised.spawn(raise(replicas.clone(), Arc::clone(&shared)));
        Ok(Self {
            shared,
            control_plane: state,
            replicas,
            raised,
            last,
            kept,
        })
    }

    /// Ends the load and waits for its last requests: from then on nothing is under way.
    pub(crate) async fn quieten(&self) {
        self.shared.quiet.cancel();
        if self.load_runs() {
            let _ = timeout(SILENCE_LIMIT, self.shared.silent.cancelled()).await;
        }
    }

    /// Ends everything, the control plane last.
    pub(crate) async fn end(mut self) {
        self.shared.stop.cancel();
        while self.raised.join_next().await.is_some() {}
        self.last.cancel();
        while self.kept.join_next().await.is_some() {}
    }

    /// Whether the load generator is up.
    pub(crate) fn load_runs(&self) -> bool {
        let load = self.replicas.last().map(|load| load.name.as_str());
        load.is_some_and(|name| is_running(&self.shared.board.borrow(), name))
    }
}

/// Starts the broker, then the services, then the load, and keeps them up.
async fn raise(replicas: Vec<Replica>, shared: Arc<Shared>) {
    let mut kept = JoinSet::new();
    let broker = replicas.iter().take(1);
    let load = replicas.iter().skip(replicas.len() - 1);
    let services = replicas.iter().skip(1).take(replicas.len() - 2);
    let mut board = shared.board.subscribe();
    for group in [broker.collect::<Vec<_>>(), services.collect(), load.collect()] {
        for replica in &group {
            kept.spawn(replica::keep((*replica).clone(), Arc::clone(&shared)));
        }
        let up = board.wait_for(|board| group.iter().all(|replica| is_running(board, &replica.name)));
        if shared.stop.run_until_cancelled(up).await.is_none() {
            break;
        }
    }
    while kept.join_next().await.is_some() {}
}

fn is_running(board: &BTreeMap<String, State>, name: &str) -> bool {
    matches!(board.get(name), Some(State::Running(_)))
}
