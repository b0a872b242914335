//! A process that ends with the test.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How long any single thing may take before the test gives up; far above what it takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One running `weft` process.
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
    /// The same, open.
    said: File,
}

/// The `weft` binary under test: `WEFT_BIN`, or the one that cargo built beside the tests.
pub fn weft_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WEFT_BIN") {
        return path.into();
    }
    let mut path = std::env::current_exe().expect("a test knows its own path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let binary = path.join("weft");
    assert!(
        binary.exists(),
        "{} is missing: run `cargo build -p weft` first",
        binary.display()
    );
    binary
}

/// What the log says where a task has panicked (`weft_panics_total` counts it).
const PANICKED: &str = "a task panicked";

/// No test is passed by a process that has panicked meanwhile.
impl Drop for Process {
    fn drop(&mut self) {
        let mut said = String::new();
        // It was opened early: its folder may be gone by now. What can't be read is no panic.
        let _ = self.said.read_to_string(&mut said);
        let well = std::thread::panicking() || !said.contains(PANICKED);
        assert!(well, "{} has panicked; its log:\n{said}", self.name);
    }
}

impl Process {
    /// Starts `weft` with `arguments`; its stderr goes to `<name>.log` in `directory`.
    pub fn start(directory: &Path, name: &str, arguments: &[String]) -> io::Result<Self> {
        Self::start_program(&weft_binary(), directory, name, arguments)
    }

    /// The same for another program.
    pub fn start_program(
        program: &Path,
        directory: &Path,
        name: &str,
        arguments: &[String],
    ) -> io::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let said = File::open(&log)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("stdout is piped"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            stdout: BufReader::new(stdout).lines(),
            log,
            said,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child
            .id()
            .expect("only a process that was waited for has none")
    }

    /// The next JSON line that has the member `key`, and that member.
    pub async fn says(&mut self, key: &str) -> Value {
        let wait = async {
            while let Some(line) = self.stdout.next_line().await.expect("stdout is readable") {
                let mut value: Value = serde_json::from_str(&line).expect("stdout is JSON lines");
                if let Some(member) = value.get_mut(key) {
                    return Some(member.take());
                }
            }
            None
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Some(value)) => value,
            Ok(None) => panic!(
                "{} ended before it said {key:?}; its log:\n{}",
                self.name,
                self.log_tail()
            ),
            Err(tokio::time::error::Elapsed { .. }) => panic!(
                "{} did not say {key:?} in {PATIENCE:?}; its log:\n{}",
                self.name,
                self.log_tail()
            ),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.pid()).expect("process ids are small");
        // SAFETY: kill(2) takes no pointers; the pid is that of our own child, which has not been waited for.
        #[allow(unsafe_code)]
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "kill: {}", io::Error::last_os_error());
    }

    /// Waits for its end and answers its exit code; `None` when a signal ended it.
    pub async fn ended(&mut self) -> Option<i32> {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.expect("a child can be waited for").code(),
            Err(tokio::time::error::Elapsed { .. }) => panic!(
                "{} did not end in {PATIENCE:?}; its log:\n{}",
                self.name,
                self.log_tail()
            ),
        }
    }

    /// SIGKILL, and wait for the end.
    pub async fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.ended().await;
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        const LINES: usize = 40;
        let text = self.log();
        let mut tail = VecDeque::with_capacity(LINES);
        for line in text.lines() {
            if tail.len() == LINES {
                tail.pop_front();
            }
            tail.push_back(line);
        }
        tail.make_contiguous().join("\n")
    }
}
