//! How near the process is to its memory limit, and what that means for new work.
//!
//! The limit is that of the control group (a container's), where there is one. Once a second each worker looks. Above
//! [`SHED`] percent new requests are answered with a reason instead of being forwarded; above [`FULL`] percent new
//! connections are reset, too, and idle ones asked to end: a proxy that is killed for its memory loses everything that
//! runs, one that sheds loses what it can't carry.

use std::fs;
use std::path::Path;

/// Percent of the limit above which requests are shed.
const SHED: u64 = 90;
/// Percent of the limit above which connections are shed.
const FULL: u64 = 95;

/// See the module's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is room.
    #[default]
    None,
    /// No new requests.
    Shed,
    /// No new connections either.
    Full,
}

/// The process's memory limit.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// In bytes; `None`: there is none.
    limit: Option<u64>,
}

impl Memory {
    /// Reads the limit, which is not expected to change.
    pub fn new() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self {
            limit: limit(&groups, |path| fs::read_to_string(path).ok()),
        }
    }

    /// How things stand now.
    pub fn pressure(&self) -> Pressure {
        let Some(limit) = self.limit else {
            return Pressure::None;
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        resident(&status).map_or(Pressure::None, |used| pressure(used, limit))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

fn pressure(used: u64, limit: u64) -> Pressure {
    let percent = used.saturating_mul(100) / limit.max(1);
    match percent {
        FULL.. => Pressure::Full,
        SHED.. => Pressure::Shed,
        _ => Pressure::None,
    }
}

/// Resident bytes, from `/proc/self/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The least memory limit of the process's cgroup (version 2) and of those above it, in bytes.
fn limit(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Path::new(own)
        .ancestors()
        .filter_map(|group| {
            read(&Path::new("/sys/fs/cgroup").join(group).join("memory.max"))?
                .trim()
                .parse()
                .ok()
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_at_ninety_and_ninety_five_percent() {
        for (used, expected) in [
            (0, Pressure::None),
            (899, Pressure::None),
            (900, Pressure::Shed),
            (949, Pressure::Shed),
            (950, Pressure::Full),
            (2000, Pressure::Full),
        ] {
            assert_eq!(pressure(used, 1000), expected, "{used}");
        }
    }

    #[test]
    fn the_least_limit_counts_and_no_limit_is_no_pressure() {
        let read = |path: &Path| {
            Some(match path.to_str()? {
                "/sys/fs/cgroup/pods/one/memory.max" => "max\n".to_owned(),
                "/sys/fs/cgroup/pods/memory.max" => "67108864\n".to_owned(),
                "/sys/fs/cgroup/memory.max" => "134217728\n".to_owned(),
                _ => return None,
            })
        };
        assert_eq!(limit("0::/pods/one\n", read), Some(64 << 20));
        assert_eq!(limit("0::/elsewhere\n", |_| None), None);
        assert_eq!(limit("", read), None);
        assert_eq!(Memory { limit: None }.pressure(), Pressure::None);
        assert_eq!(Memory { limit: Some(1) }.pressure(), Pressure::Full);
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(
            resident("Name:\tx\nVmRSS:\t    5120 kB\nThreads:\t1\n"),
            Some(5 << 20)
        );
        assert_eq!(resident("VmRSS: many kB"), None);
        assert!(resident(&fs::read_to_string("/proc/self/status").unwrap()).unwrap() > 0);
    }
}
