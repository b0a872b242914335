//! The demo as a process: what ends with it, what it starts again, and that no POST was executed twice.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use tempfile::TempDir;

/// How long a newcomer waits for something to look at.
const FIRST_TABLE: Duration = Duration::from_secs(3);

/// Replicas with two processes each, and the control plane.
const PROCESSES: usize = 14 * 2 + 1;

struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    dir: TempDir,
}

impl Demo {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["demo", "--rate", "100", "--dir"])
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut demo = Self { child, lines, dir };
        demo.until("load-1", |_| true);
        assert!(
            started.elapsed() < FIRST_TABLE,
            "first table after {:?}",
            started.elapsed()
        );
        demo
    }

    /// The user's manifest of routes, changed.
    fn edit_routes(&self, change: impl Fn(&str) -> String) {
        let file = self.dir.path().join("manifests/routes.yaml");
        let text = fs::read_to_string(&file).unwrap();
        let changed = change(&text);
        assert_ne!(text, changed);
        fs::write(file, changed).unwrap();
    }

    /// Reads tables until the row of `replica` satisfies `wanted`, and returns its cells.
    fn until(&mut self, replica: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        loop {
            let line = self.lines.next().unwrap().unwrap();
            let row = line.split_whitespace().next() == Some(replica);
            if row && wanted(&line) {
                return line.split_whitespace().map(str::to_owned).collect();
            }
        }
    }

    /// Reads tables until everything runs; the load generator comes last.
    fn until_up(&mut self) {
        self.until("load-1", |row| row.contains("http://"));
    }

    fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    /// Handles of all processes that it started.
    fn children(&self) -> Vec<OwnedFd> {
        let parent = self.child.id().to_string();
        let children = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let name = entry.unwrap().file_name();
            let pid: u32 = name.to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // Behind the name, which stands in brackets: state, then the parent.
            let of = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
            (of == parent).then(|| pidfd_open(id(pid), PidfdFlags::empty()).unwrap())
        });
        children.collect()
    }
}

fn id(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

fn kill(pid: u32, signal: Signal) {
    kill_process(id(pid), signal).unwrap();
}

/// Waits for the end of each, for at most ten seconds.
fn assert_ended(processes: &[OwnedFd]) {
    let patience = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    for process in processes {
        let mut ended = [PollFd::new(process, PollFlags::IN)];
        assert_eq!(
            poll(&mut ended, Some(&patience)).unwrap(),
            1,
            "a process lives on"
        );
    }
}

/// How often each POST was executed, by service and id.
fn executions(dir: &Path) -> BTreeMap<(String, String), u32> {
    let mut executions = BTreeMap::new();
    for service in weft_shop::Service::ALL.map(weft_shop::Service::name) {
        let journal = dir.join("data").join(service).join("journal.jsonl");
        let text = fs::read_to_string(journal).unwrap_or_default();
        for line in text.lines() {
            let entry: Value = serde_json::from_str(line).unwrap();
            let id = entry["id"].as_str().unwrap().to_owned();
            *executions.entry((service.to_owned(), id)).or_default() += 1;
        }
    }
    executions
}

/// Whether the row of a replica that runs tells of requests in the last seconds: replica, version, two pids, rate.
fn has_traffic(row: &str) -> bool {
    let rate = row.split_whitespace().nth(4).and_then(|rate| rate.parse().ok());
    rate.is_some_and(|rate: f64| rate > 0.0)
}

#[test]
fn everything_ends_with_a_killed_demo() {
    let mut demo = Demo::start();
    demo.until_up();
    let children = demo.children();
    assert_eq!(children.len(), PROCESSES);
    demo.signal(Signal::KILL);
    demo.child.wait().unwrap();
    assert_ended(&children);
}

#[test]
fn everything_ends_at_once_when_interrupted_twice() {
    let mut demo = Demo::start();
    demo.until_up();
    let children = demo.children();
    // Signals of one kind that arrive together count as one: two kinds, one after the other.
    demo.signal(Signal::INT);
    demo.signal(Signal::TERM);
    assert_eq!(demo.child.wait().unwrap().code(), Some(130));
    assert_ended(&children);
}

#[test]
fn what_is_killed_is_started_again_and_no_post_is_executed_twice() {
    let mut demo = Demo::start();
    demo.until_up();
    let row = demo.until("order-1", |row| row.contains("http://"));
    let pids: Vec<u32> = row[2..4].iter().map(|pid| pid.parse().unwrap()).collect();
    let pair = [0, 1].map(|n| pidfd_open(id(pids[n]), PidfdFlags::empty()).unwrap());
    kill(pids[0], Signal::KILL);
    assert_ended(&pair);
    // Meanwhile a mistake is said, in its place, and disturbs nothing.
    demo.edit_routes(|text| text.replace("weight: 90", "weight: -1"));
    demo.until("order-1", |row| row.contains("down (application: signal 9)"));
    demo.until("routes.yaml:25:", |line| line.contains("-1 is no weight"));
    let again = demo.until("order-1", |row| row.contains("http://"));
    assert_ne!(row[2], again[2]);
    demo.until("product-v1-1", has_traffic);
    // All of it goes to v2, once the mistake is repaired like this.
    demo.edit_routes(|text| text.replace("weight: -1", "weight: 0"));
    demo.until("product-v1-1", |row| !has_traffic(row));
    demo.until("product-v2-1", has_traffic);
    let children = demo.children();
    demo.signal(Signal::INT);
    // Reads to the end, so that the demo can write to its end.
    while let Some(Ok(_)) = demo.lines.next() {}
    demo.child.wait().unwrap();
    assert_ended(&children);
    let executions = executions(demo.dir.path());
    assert!(executions.len() > 100, "there was load: {}", executions.len());
    let twice: Vec<_> = executions.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
