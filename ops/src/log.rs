//! The log: one JSON object per line on stderr, at a level that can be changed while the process runs.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt as format, reload};

/// Longest level or filter, in bytes.
pub const MAX_LEVEL_BYTES: usize = 512;

/// The log can't be set so.
#[derive(Debug, Error)]
pub enum LogError {
    /// Neither a level nor a filter.
    #[error(
        "`{0}` is no log level: error, warn, info, debug, trace, or a list such as `info,weft_proxy=debug`"
    )]
    Level(String),
    /// Somebody else was first.
    #[error("another log is installed in this process already")]
    Taken,
}

/// Changes the level.
#[derive(Clone)]
pub struct Log(reload::Handle<EnvFilter, Registry>);

static INSTALLED: Mutex<Option<Log>> = Mutex::new(None);

/// Starts the log at `level`; a second call changes the level of the first one's.
pub fn init(level: &str) -> Result<Log, LogError> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(log) = &*installed {
        log.set_level(level)?;
        return Ok(log.clone());
    }
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let lines = format::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false);
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(lines.with_writer(io::stderr))
        .try_init();
    started.map_err(|_| LogError::Taken)?;
    Ok(installed.insert(Log(handle)).clone())
}

impl Log {
    /// The level, as a filter.
    pub fn level(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Changes the level.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        self.0.reload(parse(level)?).map_err(|_| LogError::Taken)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({})", self.level())
    }
}

/// Checks a level without setting it.
pub fn check(level: &str) -> Result<(), LogError> {
    parse(level).map(|_| ())
}

fn parse(level: &str) -> Result<EnvFilter, LogError> {
    let refused = || LogError::Level(level.chars().take(64).flat_map(char::escape_debug).collect());
    if level.is_empty() || level.len() > MAX_LEVEL_BYTES {
        return Err(refused());
    }
    // A bare word that isn't a level would be taken for the name of a module, at its most verbose.
    let known = |part: &str| {
        let name = part
            .rsplit('=')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        matches!(
            name.as_str(),
            "off" | "error" | "warn" | "info" | "debug" | "trace"
        )
    };
    if !level.split(',').all(known) {
        return Err(refused());
    }
    EnvFilter::try_new(level).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_changes_while_running() {
        let log = init("info").unwrap();
        assert_eq!(log.level(), "info");
        log.set_level("warn,weft_proxy=debug").unwrap();
        assert!(log.level().contains("weft_proxy=debug"), "{}", log.level());
        assert!(log.set_level("loud").is_err());
        assert!(
            log.level().contains("weft_proxy=debug"),
            "a refused level changes nothing"
        );
        assert_eq!(init("error").unwrap().level(), "error");
    }

    #[test]
    fn what_is_no_level_is_refused() {
        for level in [
            "",
            "verbose",
            "info,,",
            "info,weft_proxy=loud",
            &"info,".repeat(200),
            "[{\u{1b}",
        ] {
            let error = parse(level).unwrap_err().to_string();
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }
}
