//! `weft version`.

use clap::Args;
use serde::Serialize;

use crate::output::Format;

/// Print the version.
#[derive(Debug, Args)]
pub(crate) struct Version {
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Serialize)]
struct Versions {
    version: &'static str,
}

/// Runs `weft version`.
pub(crate) fn run(told: &Version) -> anyhow::Result<()> {
    let versions = Versions {
        version: env!("CARGO_PKG_VERSION"),
    };
    told.output
        .print(&versions, |versions| format!("weft {}\n", versions.version))
}
