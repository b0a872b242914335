//! Child processes: this binary again, with other arguments.
//!
//! Each child is bound to us by [`crate::leash`], stands in a process group of its own (Ctrl-C reaches only the
//! demo, which ends its children in order), reports on stdout in JSON lines, and writes its log to a file. All are
//! started from the main thread, as the leash demands: the demo's runtime has no other.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::leash;

/// Our own binary, also after the file was replaced.
const SELF: &str = "/proc/self/exe";

/// How long a process may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// What a process on a leash prints when it is asked to end.
const STOPPING: &str = r#"{"stopping":true}"#;

/// What happens to a running process.
#[derive(Debug)]
pub(crate) enum Event {
    /// Somebody asked it to end (SIGTERM); it runs on until it is let go.
    Stopping,
    /// It ended; how, in words.
    Ended(String),
}

/// Why a process is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// The machine refused.
    #[error("{0} can't be started: {1}")]
    Start(String, io::Error),
    /// It ended, or stopped talking.
    #[error("{0} ended before it was up: {1}")]
    Ended(String, String),
    /// It says nothing.
    #[error("{0} did not listen within {START_TIMEOUT:?}")]
    Silent(String),
    /// It says something else.
    #[error("{0} announced something that can't be read: {1}")]
    Announcement(String, serde_json::Error),
}

/// A running child. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// It has closed its stdout.
    mute: bool,
    /// Taken when the child is let go.
    stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts `weft <arguments>`. The log is appended to `log`.
    pub(crate) fn start(name: &str, arguments: &[String], log: &Path) -> Result<Self, ProcessError> {
        let failed = |error| ProcessError::Start(name.to_owned(), error);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(failed)?;
        let mut command = Command::new(SELF);
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"WEFT_") {
                command.env_remove(variable);
            }
        }
        let mut child = command
            .arg0("weft")
            .args(arguments.iter().map(OsStr::new))
            .env(leash::PARENT, leash::parent())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let piped = || failed(io::Error::from(io::ErrorKind::BrokenPipe));
        let stdout = child.stdout.take().ok_or_else(piped)?;
        Ok(Self {
            name: name.to_owned(),
            stdin: child.stdin.take(),
            lines: BufReader::new(stdout).lines(),
            mute: false,
            child,
        })
    }

    /// Its process id; 0 after it has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// The next line it prints, `None` when it prints no more.
    async fn line(&mut self) -> Option<Value> {
        loop {
            let line = self.lines.next_line().await.ok()??;
            if let Ok(value) = serde_json::from_str(&line) {
                return Some(value);
            }
        }
    }

    /// What it says under `key`, other lines are passed over.
    async fn said(&mut self, key: &str) -> Result<Value, ProcessError> {
        while let Some(mut line) = self.line().await {
            if let Some(value) = line.get_mut(key) {
                return Ok(value.take());
            }
        }
        let how = describe(self.wait().await);
        Err(ProcessError::Ended(self.name.clone(), how))
    }

    /// Waits until it listens, and tells where.
    pub(crate) async fn listening<T: DeserializeOwned>(&mut self) -> Result<T, ProcessError> {
        let value = match timeout(START_TIMEOUT, self.said("listening")).await {
            Ok(said) => said?,
            Err(_) => return Err(ProcessError::Silent(self.name.clone())),
        };
        serde_json::from_value(value).map_err(|error| ProcessError::Announcement(self.name.clone(), error))
    }

    /// Waits until it is ready, without limit.
    pub(crate) async fn ready(&mut self) -> Result<(), ProcessError> {
        self.said("ready").await.map(drop)
    }

    /// Waits until something happens to it.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            tokio::select! {
                status = self.child.wait() => return Event::Ended(describe(status)),
                line = self.lines.next_line(), if !self.mute => match line {
                    Ok(Some(line)) if line.contains(STOPPING) => return Event::Stopping,
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => self.mute = true,
                },
            }
        }
    }

    /// Writes it a line.
    pub(crate) async fn tell(&mut self, value: &impl Serialize) -> Result<(), ProcessError> {
        let failed = |error| ProcessError::Start(self.name.clone(), error);
        let mut line = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        match &mut self.stdin {
            Some(stdin) => stdin.write_all(&line).await.map_err(failed),
            None => Ok(()),
        }
    }

    /// Closes its stdin, which ends a process on a leash.
    pub(crate) fn let_go(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it ends. Can be called again.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits until it ends, and kills it after `patience`.
    pub(crate) async fn end(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        if let Ok(status) = timeout(patience, self.wait()).await {
            return status;
        }
        self.signal(Signal::KILL);
        self.wait().await
    }
}

/// How a process ended, in words.
pub(crate) fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("signal {signal}"),
            (None, Some(code)) => format!("exit code {code}"),
            (None, None) => "unknown".into(),
        },
        Err(error) => error.to_string(),
    }
}
