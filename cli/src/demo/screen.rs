//! What is shown while the demo runs: redrawn on a terminal, a table now and then elsewhere, nothing beside JSON.

use std::collections::VecDeque;
use std::io::{IsTerminal, stdout};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::control_plane;
use super::mesh::Mesh;
use super::report::{Report, with_expected};
use super::scrape::Scraper;
use super::site::Site;
use super::table::{self, EdgeRow, ReplicaRow, View};
use super::traffic::{Totals, Traffic};
use crate::output::print;

/// Rates and quantiles are those of the last this many ticks.
const RECENT: usize = 5;

/// Without a terminal, how long between two tables.
const PAUSE: Duration = Duration::from_secs(5);

/// Size of a terminal that doesn't tell.
const DEFAULT_SIZE: (usize, usize) = (160, 50);

/// The state of the view.
#[derive(Debug)]
pub(crate) struct Screen {
    shown: bool,
    terminal: bool,
    site: Arc<Site>,
    started: Instant,
    last_drawn: Option<Instant>,
    scraper: Scraper,
    traffic: Traffic,
    /// Totals by time, oldest first.
    history: VecDeque<(Instant, Totals)>,
    problems: Vec<String>,
}

impl Screen {
    /// `shown`: whether there is a live view at all.
    pub(crate) fn new(shown: bool, site: Arc<Site>) -> Self {
        let started = Instant::now();
        Self {
            shown,
            terminal: stdout().is_terminal(),
            site,
            started,
            last_drawn: None,
            scraper: Scraper::default(),
            traffic: Traffic::default(),
            history: VecDeque::from([(started, Totals::default())]),
            problems: Vec::new(),
        }
    }

    /// The newest totals.
    pub(crate) fn totals(&self) -> &Totals {
        &self.history[self.history.len() - 1].1
    }

    /// Asks everybody.
    pub(crate) async fn refresh(&mut self, mesh: &Mesh) {
        let board = mesh.shared.board.borrow().clone();
        self.scraper
            .sidecars(&mesh.replicas, &board, &mut self.traffic)
            .await;
        self.history.push_back((Instant::now(), self.traffic.totals()));
        if self.history.len() > RECENT + 1 {
            self.history.pop_front();
        }
        let control_plane = mesh.control_plane.borrow().clone();
        if let control_plane::State::Running { admin, .. } = control_plane
            && let Some(problems) = self.scraper.problems(admin).await
        {
            self.problems = problems;
        }
    }

    /// Shows what is known.
    pub(crate) fn draw(&mut self, mesh: &Mesh) {
        let now = Instant::now();
        let waits = self.last_drawn.is_some_and(|last| now - last < PAUSE);
        if !self.shown || (!self.terminal && waits) {
            return;
        }
        self.last_drawn = Some(now);
        let (columns, rows) = terminal_size();
        let text = self.view(
            mesh,
            now,
            (columns, if self.terminal { rows } else { usize::MAX }),
        );
        let text = if self.terminal {
            // Home, each line erased to its end, the rest of the screen erased: nothing flickers.
            let text = table::fit(&text, columns, rows).replace('\n', "\x1b[K\n");
            format!("\x1b[H{text}\x1b[K\x1b[J")
        } else {
            text + "\n"
        };
        let _ = print(&text);
    }

    fn view(&self, mesh: &Mesh, now: Instant, (columns, rows): (usize, usize)) -> String {
        let board = mesh.shared.board.borrow();
        let before = &self.history[0].1;
        let totals = self.totals();
        let recent_time = self.recent_time();
        let dir = self.site.dir().display().to_string();
        let replicas = mesh.replicas.iter().filter_map(|replica| {
            let requests = totals.replicas.get(&replica.name).copied().unwrap_or(0);
            let earlier = before.replicas.get(&replica.name).copied().unwrap_or(0);
            Some(ReplicaRow {
                replica,
                state: board.get(&replica.name)?,
                requests,
                recent_requests: requests.saturating_sub(earlier),
                recent_time,
            })
        });
        table::render(&View {
            elapsed: self.started.elapsed(),
            now,
            columns,
            rows,
            dir: &dir,
            control_plane: &mesh.control_plane.borrow(),
            edges: self.edges(),
            replicas: replicas.collect(),
            refused: &totals.refused,
            problems: &self.problems,
        })
    }

    /// The time that recent numbers are of.
    fn recent_time(&self) -> Duration {
        self.history[self.history.len() - 1].0 - self.history[0].0
    }

    fn edges(&self) -> Vec<EdgeRow> {
        let recent_time = self.recent_time();
        let before = &self.history[0].1;
        with_expected(self.totals())
            .map(|(edge, total)| {
                let earlier = before.edges.get(&edge).cloned().unwrap_or_default();
                let recent = total.since(&earlier);
                EdgeRow {
                    edge,
                    total,
                    recent,
                    recent_time,
                }
            })
            .collect()
    }

    /// The result for people, and where what is left can be found.
    pub(crate) fn farewell(&self, report: &Report, temporary: bool) {
        if self.shown {
            let verdict = if report.healthy {
                "healthy: every edge had traffic, over mTLS, and nothing failed".to_owned()
            } else {
                format!("not healthy: {}", report.complaints().join("; "))
            };
            let clear = if self.terminal { "\x1b[H\x1b[J" } else { "" };
            let edges = table::edges(&self.edges(), terminal_size().0);
            let _ = print(&format!("{clear}{edges}\n{verdict}\n"));
        }
        if temporary && report.healthy && self.site.untouched() {
            let _ = std::fs::remove_dir_all(self.site.dir());
        } else {
            eprintln!("manifests and logs are in {}", self.site.dir().display());
        }
    }
}

/// Columns and rows.
fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(rustix::stdio::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => DEFAULT_SIZE,
    }
}
