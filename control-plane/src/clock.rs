//! The clocks, read here and nowhere else in this crate's decisions: the core takes moments as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use weft_control_plane_core::issue::UnixTime;
use weft_control_plane_core::time::Now;

/// The process's own time, from a start of its own.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// This moment.
    pub fn now(self) -> Now {
        Now::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// A moment of the core as one that can be slept until.
    pub fn instant(self, moment: Now) -> Instant {
        self.0 + moment.since(Now::from_nanos(0))
    }
}

/// The time of day.
pub fn unix_now() -> UnixTime {
    UnixTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    )
}
