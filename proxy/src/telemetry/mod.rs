//! What the data plane tells: counters and histograms, one access-log record per exchange, trace context.
//!
//! Nothing here decides, and nothing here waits: handles are resolved once, and a log that can't keep up loses lines
//! and counts them.

pub mod access_log;
pub mod metrics;
pub mod report;
pub mod trace;
