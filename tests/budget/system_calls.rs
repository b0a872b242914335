//! Counts the system calls of some of our own threads, by attaching strace to them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{PTracer, Pid, Signal, kill_process, set_ptracer};

/// The threads of this process with this name.
pub(crate) fn threads_named(name: &str) -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let ids = tasks.map(|task| {
        task.expect("a thread")
            .file_name()
            .into_string()
            .expect("a number")
    });
    let named = |id: &String| {
        fs::read_to_string(format!("/proc/self/task/{id}/comm")).is_ok_and(|found| found.trim_end() == name)
    };
    ids.filter(named).collect()
}

/// A strace at work.
pub(crate) struct Trace {
    strace: Child,
    summary: PathBuf,
}

impl Trace {
    /// Attaches to `threads`, and returns when it counts. Writes into `folder`.
    pub(crate) fn attach(threads: &[String], folder: &Path) -> Self {
        // Under Yama a child may trace its parent only by leave. Without Yama there is no leave to give, which is an
        // error that means nothing: whether strace attaches is checked below.
        let _ = set_ptracer(PTracer::Any);
        let summary = folder.join("strace");
        let mut command = Command::new("strace");
        command
            .args(["-c", "--summary-columns=calls,name", "-o"])
            .arg(&summary);
        for thread in threads {
            command.args(["-p", thread]);
        }
        let mut strace = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed (Debian package strace)");
        let said = BufReader::new(strace.stderr.take().expect("piped"));
        let mut lines = said.lines().map(|line| line.expect("text"));
        for _ in threads {
            let line = lines.next().expect("strace says when it has attached");
            assert!(line.ends_with("attached"), "strace can't attach: {line}");
        }
        Self { strace, summary }
    }

    /// Detaches and returns each call with how often it was made.
    pub(crate) fn end(mut self) -> Vec<(String, u64)> {
        let pid = Pid::from_child(&self.strace);
        kill_process(pid, Signal::INT).expect("strace is alive");
        self.strace.wait().expect("it is our child");
        let text = fs::read_to_string(&self.summary).expect("strace writes its summary");
        let rows = text.lines().filter_map(|line| {
            let (calls, name) = line.trim().split_once(char::is_whitespace)?;
            Some((name.trim().to_owned(), calls.parse().ok()?))
        });
        rows.filter(|(name, _)| name != "total").collect()
    }
}
