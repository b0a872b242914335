//! `weft demo`: the whole mesh on one machine, in one command.
//!
//! - [`topology`]: what is started and which edges must have traffic. [`site`]: the folder and the command lines.
//! - [`mesh`], [`processes`], [`control_plane`], [`replica`]: starting, watching, restarting, ending.
//! - [`metrics`], [`traffic`]: from `/metrics` to numbers per edge. [`scrape`]: asking for them.
//! - [`screen`], [`table`], [`report`]: numbers to text and to JSON.
//!
//! One runtime on the main thread, which starts every process (see [`crate::leash`]). Nothing here is part of the
//! mesh: the demo only starts processes and reads their status pages, as a person could.

mod control_plane;
mod mesh;
pub(crate) mod metrics;
mod processes;
mod replica;
mod report;
mod scrape;
mod screen;
mod site;
mod table;
mod topology;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::time::{Instant, MissedTickBehavior, interval};
use weft_ops::signal::Signals;

use self::mesh::Mesh;
use self::report::Report;
use self::screen::Screen;
use self::site::Site;
use crate::output::{self, Format};
use crate::token::parse_duration;

/// How often everything is asked and shown.
const TICK: Duration = Duration::from_secs(1);

/// How long the shop may take to come up when the demo ends by itself.
const START_LIMIT: Duration = Duration::from_mins(1);

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
    /// Requests that customers send per second, 1 to 2000.
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
            report = finish(mesh, &mut screen) => report,
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

/// Ends the load, counts for the last time, ends everything.
async fn finish(mesh: Mesh, screen: &mut Screen) -> Report {
    mesh.quieten().await;
    screen.refresh(&mesh).await;
    let report = Report::new(screen.totals(), &mesh.replicas);
    mesh.end().await;
    report
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
