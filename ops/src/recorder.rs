//! The metrics recorder: Prometheus text, histograms as buckets.
//!
//! Whoever counts resolves its handles once, when configuration is linked, and keeps them; so nothing here expires
//! (a handle to an expired series would count into nowhere) and the number of series is bounded by whoever chooses
//! labels. Samples of histograms wait in queues until [`Recorder::run_upkeep`] sorts them into their buckets.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;

/// Upper bounds of all histograms, in seconds: 250 µs to 60 s.
pub const BUCKETS_SECONDS: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

/// How often samples are sorted into buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// No metrics.
#[derive(Debug, Error)]
pub enum RecorderError {
    /// The buckets were refused.
    #[error("the metrics recorder can't be made: {0}")]
    Build(#[from] BuildError),
    /// Somebody else was first.
    #[error("another metrics recorder is installed in this process already")]
    Taken,
}

/// The recorder of this process.
#[derive(Clone)]
pub struct Recorder(PrometheusHandle);

static INSTALLED: Mutex<Option<Recorder>> = Mutex::new(None);

/// Installs the process's recorder; a second call returns the first one's.
pub fn install() -> Result<Recorder, RecorderError> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(recorder) = &*installed {
        return Ok(recorder.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets(&BUCKETS_SECONDS)?
        .build_recorder();
    let handle = Recorder(recorder.handle());
    metrics::set_global_recorder(recorder).map_err(|_| RecorderError::Taken)?;
    Ok(installed.insert(handle).clone())
}

impl Recorder {
    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Keeps the queues of samples short, for as long as it is awaited.
    pub async fn run_upkeep(self) {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            self.0.run_upkeep();
        }
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_buckets_and_installing_twice_is_once() {
        let recorder = install().unwrap();
        metrics::histogram!("weft_test_seconds").record(0.003);
        let text = install().unwrap().render();
        assert!(
            text.contains("weft_test_seconds_bucket{le=\"0.005\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("weft_test_seconds_bucket{le=\"0.0025\"} 0"),
            "{text}"
        );
        assert_eq!(recorder.render().matches("quantile").count(), 0);
    }
}
