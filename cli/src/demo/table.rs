//! The live view: pure, from what is known to text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::control_plane;
use super::replica::{Running, State};
use super::topology::{Replica, Role};
use super::traffic::{Counts, Edge};
use crate::output::columns;

/// Everything that is shown.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) elapsed: Duration,
    pub(crate) now: Instant,
    /// What a line may be long, for text that can be wrapped.
    pub(crate) columns: usize,
    /// How many lines can be seen.
    pub(crate) rows: usize,
    pub(crate) dir: &'a str,
    pub(crate) control_plane: &'a control_plane::State,
    pub(crate) edges: Vec<EdgeRow>,
    pub(crate) replicas: Vec<ReplicaRow<'a>>,
    /// Requests that sidecars answered themselves, by source and reason.
    pub(crate) refused: &'a BTreeMap<(String, String), u64>,
    pub(crate) problems: &'a [String],
}

/// An edge: all of its life, and the last seconds.
#[derive(Debug)]
pub(crate) struct EdgeRow {
    pub(crate) edge: Edge,
    pub(crate) total: Counts,
    pub(crate) recent: Counts,
    pub(crate) recent_time: Duration,
}

/// A replica.
#[derive(Debug)]
pub(crate) struct ReplicaRow<'a> {
    pub(crate) replica: &'a Replica,
    pub(crate) state: &'a State,
    pub(crate) requests: u64,
    pub(crate) recent_requests: u64,
    pub(crate) recent_time: Duration,
}

/// The whole view. Where a terminal is too low for it, what cannot be guessed comes first: what was refused, and what
/// to try.
pub(crate) fn render(view: &View<'_>) -> String {
    let [mut head, mut edges, mut problems, mut hints] = [const { String::new() }; 4];
    header(view, &mut head);
    edges.push_str(&self::edges(&view.edges, view.columns));
    refused(view.refused, &mut edges);
    let replicas = replicas(view);
    self::problems(view.problems, view.columns, &mut problems);
    self::hints(view, &mut hints);
    let whole = sections([&head, &edges, &replicas, &problems, &hints]);
    if whole.lines().count() <= view.rows {
        whole
    } else {
        sections([&head, &problems, &edges, &hints, &replicas])
    }
}

/// Those that say something, with a blank line between.
fn sections(sections: [&String; 5]) -> String {
    let said: Vec<&str> = sections
        .into_iter()
        .map(String::as_str)
        .filter(|section| !section.is_empty())
        .collect();
    said.join("\n")
}

/// The edges alone. Where lines of `columns` characters can't hold all of it, what the other columns say as well goes.
pub(crate) fn edges(rows: &[EdgeRow], columns: usize) -> String {
    let mut lines = vec![
        [
            "SOURCE",
            "DESTINATION",
            "PROTOCOL",
            "MTLS",
            "REQ/S",
            "REQUESTS",
            "SUCCESS",
            "FAILED",
            "P50",
            "P99",
            "RETRIES",
        ]
        .map(str::to_owned),
    ];
    lines.extend(rows.iter().map(edge_line));
    let text = self::columns(&lines, 4);
    if text.lines().all(|line| line.chars().count() <= columns) {
        return text;
    }
    let lines: Vec<[String; 9]> = lines.into_iter().map(narrow).collect();
    self::columns(&lines, 4)
}

/// A line of the edges in 80 columns.
fn narrow(line: [String; 11]) -> [String; 9] {
    let [
        source,
        destination,
        protocol,
        mtls,
        rate,
        _,
        success,
        _,
        p50,
        p99,
        retries,
    ] = line;
    let or = |text: String, long: &str, short: &str| {
        if text == long { short.to_owned() } else { text }
    };
    [
        source,
        or(destination, "DESTINATION", "DEST"),
        or(protocol, "PROTOCOL", "PROTO"),
        mtls,
        rate,
        success,
        p50,
        p99,
        retries,
    ]
}

fn edge_line(row: &EdgeRow) -> [String; 11] {
    let tcp = row.edge.protocol == "tcp";
    let quantile = |q| match row.recent.durations.quantile_ms(q) {
        Some(ms) if !tcp => format!("{ms:.1} ms"),
        _ => "-".into(),
    };
    let mtls = match (row.total.requests, row.total.mtls()) {
        (0, _) => "-",
        (_, true) => "yes",
        (_, false) => "NO",
    };
    [
        row.edge.source.clone(),
        row.edge.destination.clone(),
        row.edge.protocol.clone(),
        mtls.into(),
        rate(row.recent.requests, row.recent_time),
        row.total.requests.to_string(),
        success(&row.total),
        row.total.failures.to_string(),
        quantile(0.5),
        quantile(0.99),
        row.total.retries.to_string(),
    ]
}

/// Rounded down, so that 100 % means that nothing failed.
fn success(counts: &Counts) -> String {
    match counts.success_rate() {
        None => "-".into(),
        Some(share) => {
            let percent = (share * 10_000.0).floor() / 100.0;
            if counts.failures == 0 {
                "100 %".into()
            } else {
                format!("{:.2} %", percent.min(99.99))
            }
        }
    }
}

fn rate(requests: u64, time: Duration) -> String {
    if time.is_zero() {
        return "-".into();
    }
    format!("{:.1}", requests as f64 / time.as_secs_f64())
}

fn header(view: &View<'_>, out: &mut String) {
    let _ = writeln!(
        out,
        "weft demo · up {} s · everything is in {}",
        view.elapsed.as_secs(),
        view.dir
    );
    let _ = match view.control_plane {
        control_plane::State::Running { pid, status, admin } => writeln!(
            out,
            "control plane · pid {pid} · http://{status}/metrics · http://{admin}/objects"
        ),
        control_plane::State::Down(why, until) => {
            let rest = until.saturating_duration_since(view.now).as_secs();
            writeln!(
                out,
                "control plane · down ({why}), back in {rest} s · running traffic does not need it"
            )
        }
    };
}

fn replicas(view: &View<'_>) -> String {
    let mut lines = vec![
        [
            "REPLICA", "VERSION", "PID", "SIDECAR", "REQ/S", "REQUESTS", "STATUS",
        ]
        .map(str::to_owned),
    ];
    lines.extend(view.replicas.iter().map(|row| replica_line(row, view.now)));
    columns(&lines, 2)
}

fn replica_line(row: &ReplicaRow<'_>, now: Instant) -> [String; 7] {
    let (pid, sidecar) = row.state.running().map_or(("-".into(), "-".into()), |running| {
        (running.application.to_string(), running.sidecar.to_string())
    });
    let (requests, rate) = match row.replica.role {
        Role::Service(_) => (
            row.requests.to_string(),
            rate(row.recent_requests, row.recent_time),
        ),
        Role::Broker | Role::Load => ("-".into(), "-".into()),
    };
    let status = match row.state {
        State::Starting => "starting".into(),
        State::Running(running) => format!("http://{}/metrics", running.status),
        State::Stopping(_) => "draining".into(),
        State::Down(why, until) => {
            let rest = until.saturating_duration_since(now).as_secs();
            format!("down ({why}), back in {rest} s")
        }
    };
    [
        row.replica.name.clone(),
        row.replica.version.to_owned(),
        pid,
        sidecar,
        rate,
        requests,
        status,
    ]
}

/// Why requests failed that no application answered. `upstream_reset`: it was running on a replica that was killed, and
/// might have been executed, so that nobody may send it again.
fn refused(refused: &BTreeMap<(String, String), u64>, out: &mut String) {
    if refused.is_empty() {
        return;
    }
    let list = refused
        .iter()
        .map(|((source, reason), count)| format!("{count} {reason} to {source}"));
    let _ = writeln!(
        out,
        "answered by sidecars: {}",
        list.collect::<Vec<_>>().join(", ")
    );
}

fn problems(problems: &[String], columns: usize, out: &mut String) {
    if problems.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "NOT IN FORCE · the last good version of each object still is:"
    );
    for problem in problems {
        out.push_str(&wrap(problem, columns));
    }
}

/// In lines of at most `columns` characters, indented, the first less than the others.
fn wrap(text: &str, columns: usize) -> String {
    let mut out = String::new();
    let mut line = String::from(" ");
    for word in text.split(' ') {
        let longer = line.chars().count() + 1 + word.chars().count();
        if longer > columns && !line.trim().is_empty() {
            out.push_str(&line);
            out.push('\n');
            line = String::from("   ");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
    out
}

fn hints(view: &View<'_>, out: &mut String) {
    let running = |service: &str| {
        let mut rows = view.replicas.iter();
        rows.find_map(|row| {
            (row.replica.service() == service)
                .then(|| row.state.running())
                .flatten()
        })
    };
    out.push_str("TRY NEXT\n");
    let mut lines = Vec::new();
    let mut hint = |command: String, what: &str| lines.push([format!("  {command}"), what.to_owned()]);
    if let Some(Running { outbound, .. }) = running("load") {
        hint(
            format!("curl -x http://{outbound} http://user/users/7"),
            "a request of your own, through a sidecar",
        );
    }
    hint(
        format!("edit {}/manifests/routes.yaml", view.dir),
        "a weight: traffic moves within a second; a mistake is refused",
    );
    if let Some(Running { application, .. }) = running("user") {
        hint(
            format!("kill {application}"),
            "stops a replica of user: nothing is lost",
        );
    }
    if let Some(Running { application, .. }) = running("order") {
        hint(
            format!("kill -9 {application}"),
            "kills one of order: at most the POSTs running on it fail",
        );
    }
    if let control_plane::State::Running { pid, .. } = view.control_plane {
        hint(
            format!("kill {pid}"),
            "stops the control plane: running traffic goes on",
        );
    }
    hint("Ctrl-C".into(), "ends everything; twice: at once");
    out.push_str(&columns(&lines, usize::MAX));
}

/// At most `rows` lines of at most `columns` characters: what a terminal shows without wrapping or scrolling.
pub(crate) fn fit(text: &str, columns: usize, rows: usize) -> String {
    let lines = text.lines().take(rows);
    lines
        .map(|line| line.chars().take(columns).collect::<String>())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::topology;
    use super::*;

    fn row(protocol: &str, failures: u64) -> EdgeRow {
        let mut recent = Counts {
            requests: 20,
            ..Counts::default()
        };
        recent.durations.add("0.002", 20);
        EdgeRow {
            edge: Edge::new("order", "user", protocol),
            total: Counts {
                requests: 100_000,
                failures,
                ..Counts::default()
            },
            recent,
            recent_time: Duration::from_secs(2),
        }
    }

    #[test]
    fn an_edge_is_a_line() {
        let text = edges(&[row("http1", 0), row("tcp", 1)], usize::MAX);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1],
            [
                "order", "user", "http1", "yes", "10.0", "100000", "100", "%", "0", "1.0", "ms", "2.0", "ms",
                "0"
            ]
        );
        assert_eq!(
            lines[2],
            [
                "order", "user", "tcp", "yes", "10.0", "100000", "99.99", "%", "1", "-", "-", "0"
            ]
        );
    }

    #[test]
    fn in_80_columns_every_edge_is_whole() {
        let mut worst = row("http1", 1);
        worst.edge = Edge::new("inventory", "inventory", "http1");
        worst.total.retries = 12_345;
        worst.recent.requests = 19_999;
        worst.recent.durations.add("0.9999", 1_000_000);
        let text = edges(&[worst], 80);
        let lines: Vec<&str> = text.lines().collect();
        for wanted in ["P50", "P99", "RETRIES"] {
            assert!(lines[0].contains(wanted), "{text}");
        }
        assert!(
            lines[1].ends_with(" 12345") && lines[1].contains("99.99 %"),
            "{text}"
        );
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn what_is_down_is_said_and_the_rest_can_be_tried() {
        let now = Instant::now();
        let all = topology::replicas();
        let down = State::Down("signal 9".into(), now + Duration::from_secs(7));
        let up = State::Running(Running {
            application: 41,
            sidecar: 42,
            outbound: "127.0.0.1:1".parse().unwrap(),
            status: "127.0.0.1:2".parse().unwrap(),
        });
        let state = |replica: &Replica| if replica.name == "user-1" { &down } else { &up };
        let rows = all.iter().map(|replica| ReplicaRow {
            replica,
            state: state(replica),
            requests: 5,
            recent_requests: 1,
            recent_time: Duration::from_secs(1),
        });
        let view = View {
            elapsed: Duration::from_secs(3),
            now,
            columns: 24,
            rows: usize::MAX,
            dir: "/demo",
            control_plane: &control_plane::State::Down("signal 9".into(), now),
            edges: vec![row("http1", 0)],
            replicas: rows.collect(),
            refused: &BTreeMap::from([(("order".to_owned(), "upstream_reset".to_owned()), 2)]),
            problems: &["routes.yaml:3: spec.rules: wrong".into()],
        };
        let text = render(&view);
        assert!(text.contains("down (signal 9), back in 7 s"), "{text}");
        assert!(text.contains("http://127.0.0.1:2/metrics"));
        assert!(
            text.contains("kill 41 ") && text.contains("kill -9 41 "),
            "a replica that is up is offered: {text}"
        );
        assert!(
            text.contains("  routes.yaml:3:\n    spec.rules: wrong\n"),
            "{text}"
        );
        assert!(text.contains("answered by sidecars: 2 upstream_reset to order"));
        assert!(!text.contains("kill  "), "{text}");
        let at = |text: &str, what: &str| text.find(what).unwrap();
        assert!(at(&text, "REPLICA") < at(&text, "NOT IN FORCE"), "{text}");
        let low = render(&View { rows: 24, ..view });
        assert!(at(&low, "NOT IN FORCE") < at(&low, "SOURCE"), "{low}");
        assert!(at(&low, "TRY NEXT") < at(&low, "REPLICA"), "{low}");
    }

    #[test]
    fn a_small_terminal_cuts() {
        assert_eq!(fit("abc\nde\nf", 2, 2), "ab\nde");
    }
}
