//! `weft demo`: the whole mesh on one machine, in one command.
//!
//! - [`topology`]: what is started and which edges must have traffic. [`site`]: the folder and the command lines.
//! - [`processes`], [`control_plane`], [`replica`]: starting, watching, restarting, ending.
//! - [`metrics`], [`traffic`]: from `/metrics` to numbers per edge. [`scrape`]: asking for them.
//! - [`table`], [`report`]: numbers to text and to JSON.
//!
//! One runtime on the main thread, which starts every process (see [`crate::leash`]). Nothing here is part of the
//! mesh: the demo only starts processes and reads their status pages, as a person could.

mod control_plane;
mod metrics;
mod processes;
mod replica;
mod report;
mod scrape;
mod screen;
mod site;
mod table;
mod topology;
mod traffic;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use weft_ops::signal::Signals;

use self::control_plane::ControlPlane;
use self::replica::{Shared, State};
use self::report::Report;
use self::screen::Screen;
use self::site::Site;
use self::topology::Replica;
use crate::output::{self, Format};
use crate::token::parse_duration;

/// How often everything is asked and shown.
const TICK: Duration = Duration::from_secs(1);

/// How long the shop may take to come up when the demo ends by itself.
const START_LIMIT: Duration = Duration::from_mins(1);

/// How long the load generator's last requests may take.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// Exit code after a second Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;

/// Start the mesh, a shop and load on this machine, and watch.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End after this time, counted from the first load.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    time: Option<Duration>,
    /// Where manifests, state and logs are kept [default: a new temporary folder].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Requests that customers send per second.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
    /// How the result is printed; a table also lives.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs the demo. Its exit code tells whether the mesh was healthy.
pub(crate) fn run(demo: Demo) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(demo.run())
}

impl Demo {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::new()?;
        let temporary = self.dir.is_none();
        let dir = match self.dir {
            Some(dir) => dir,
            None => tempfile::Builder::new()
                .prefix("weft-demo-")
                .tempdir()
                .context("no temporary folder can be made")?
                .keep(),
        };
        let site = Arc::new(Site::prepare(&dir)?);
        let mut screen = Screen::new(self.output == Format::Table, Arc::clone(&site));
        let mesh = tokio::select! {
            mesh = Mesh::start(site, self.rate) => mesh?,
            () = signals.next() => std::process::exit(INTERRUPTED),
        };
        tokio::select! {
            () = watch(&mesh, &mut screen, self.time) => {}
            () = signals.next() => {}
        }
        let report = tokio::select! {
            report = mesh.end(&mut screen) => report,
            // The children end with this process, at once.
            () = signals.next() => std::process::exit(INTERRUPTED),
        };
        if let Some(text) = self.output.encode(&report) {
            output::print(&text?)?;
        }
        screen.farewell(&report, temporary);
        Ok(if report.healthy {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Everything that was started.
#[derive(Debug)]
struct Mesh {
    shared: Arc<Shared>,
    control_plane: watch::Receiver<control_plane::State>,
    /// All replicas, the load generator last.
    replicas: Vec<Replica>,
    raised: JoinSet<()>,
    /// Ends the control plane, after everything that is connected to it.
    last: CancellationToken,
    kept: JoinSet<()>,
}

impl Mesh {
    async fn start(site: Arc<Site>, rate: u32) -> anyhow::Result<Self> {
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

    /// Ends the load, counts for the last time, ends everything.
    async fn end(mut self, screen: &mut Screen) -> Report {
        self.shared.quiet.cancel();
        if self.load_runs() {
            let _ = timeout(SILENCE_LIMIT, self.shared.silent.cancelled()).await;
        }
        screen.refresh(&self).await;
        let report = Report::new(screen.totals(), &self.replicas);
        self.shared.stop.cancel();
        while self.raised.join_next().await.is_some() {}
        self.last.cancel();
        while self.kept.join_next().await.is_some() {}
        report
    }

    fn load_runs(&self) -> bool {
        let load = self.replicas.last().map(|load| load.name.as_str());
        load.is_some_and(|name| is_running(&self.shared.board.borrow(), name))
    }
}

/// Shows until `time` is over, counted from the first load.
async fn watch(mesh: &Mesh, screen: &mut Screen, time: Option<Duration>) {
    let started = Instant::now();
    let mut first_load = None;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        screen.refresh(mesh).await;
        screen.draw(mesh);
        if first_load.is_none() && mesh.load_runs() {
            first_load = Some(Instant::now());
        }
        let over = time.is_some_and(|time| match first_load {
            Some(first) => first.elapsed() >= time,
            None => started.elapsed() >= START_LIMIT + time,
        });
        if over {
            return;
        }
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
