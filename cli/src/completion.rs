//! `weft completion SHELL`: a completion script on stdout.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::output::print;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell.
    shell: Shell,
}

/// Runs `weft completion`.
pub(crate) fn run(told: &Completion, mut command: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(told.shell, &mut command, "weft", &mut script);
    print(&String::from_utf8_lossy(&script))
}
