//! Threads: N data workers, each a current-thread runtime of its own, beside the control thread.
//!
//! A worker shares nothing with another but what is published to it and a few counters. The kernel spreads
//! connections over the workers' sockets; a connection stays with its worker for life.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::serve;
pub use crate::serve::{Phase, ReportRequest, WorkerContext, WorkerListeners};
use crate::telemetry::access_log::AccessLog;

/// Most data workers where the settings say nothing.
const MAX_DEFAULT_WORKERS: usize = 4;

/// Says that a worker has ended, also when it panicked.
struct Ended(mpsc::Sender<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        // There is room for each worker; without a receiver the process has ended anyway.
        let _ = self.0.try_send(());
    }
}

/// Starts a worker on a thread of its own. `ended` gets one message when it has ended, for whatever reason, and must
/// have room for it.
pub fn spawn(
    context: WorkerContext,
    listeners: WorkerListeners,
    log: Option<AccessLog>,
    ended: mpsc::Sender<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let name = format!("weft-worker-{}", context.index);
    thread::Builder::new().name(name).spawn(move || {
        let _ended = Ended(ended);
        LocalSet::new().block_on(&runtime, serve::run(context, listeners, log));
    })?;
    Ok(())
}

/// Data workers where the settings say nothing: the CPU limit rounded up, at most 4.
pub fn default_workers() -> usize {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // The standard library knows the limit too, but rounds it down.
    let limit = cpu_limit(&groups, |path| fs::read_to_string(path).ok()).map(round_up);
    let available = || thread::available_parallelism().map_or(1, usize::from);
    limit.unwrap_or_else(available).clamp(1, MAX_DEFAULT_WORKERS)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a small positive number
fn round_up(processors: f64) -> usize {
    processors.ceil().clamp(1.0, 1024.0) as usize
}

/// The least CPU limit of the process's cgroup (version 2) and of those above it, in processors.
fn cpu_limit(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<f64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limits = Path::new(own).ancestors().filter_map(|group| {
        let text = read(&Path::new("/sys/fs/cgroup").join(group).join("cpu.max"))?;
        let (quota, period) = text.trim().split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    });
    limits
        .filter(|limit| limit.is_finite() && *limit > 0.0)
        .reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_the_own_group_and_those_above_counts() {
        let read = |path: &Path| {
            Some(match path.to_str()? {
                "/sys/fs/cgroup/kubepods/pod1/c1/cpu.max" => "max 100000\n".to_owned(),
                "/sys/fs/cgroup/kubepods/pod1/cpu.max" => "150000 100000\n".to_owned(),
                "/sys/fs/cgroup/kubepods/cpu.max" => "400000 100000\n".to_owned(),
                _ => return None,
            })
        };
        assert_eq!(cpu_limit("0::/kubepods/pod1/c1\n", read), Some(1.5));
        assert_eq!(cpu_limit("0::/\n", read), None);
        assert_eq!(cpu_limit("4:cpu:/x\n", read), None);
        assert_eq!((round_up(1.5), round_up(0.1), round_up(2.0)), (2, 1, 2));
    }

    #[test]
    fn a_broken_limit_is_none() {
        for text in ["", "max", "0 0", "x y", "-1 100000", "100000 0"] {
            assert_eq!(cpu_limit("0::/a", |_| Some(text.to_owned())), None, "{text}");
        }
        assert!((1..=MAX_DEFAULT_WORKERS).contains(&default_workers()));
    }
}
