//! `weft check`: what is wrong with an installation, in order, each fault with a remedy.
//!
//! [`gather`] asks the API server and the processes, and keeps every answer as it came ([`facts`]). Every check is a pure
//! function of that: [`platform`], [`plane`], [`workloads`], [`mesh`], in the order of what rests on what. What follows
//! from a fault that has been named is not named again.

mod facts;
mod gather;
mod mesh;
mod plane;
mod platform;
mod report;
mod services;
#[cfg(test)]
mod tests;
mod workloads;

use std::process::ExitCode;

use clap::Args;

use crate::cluster::{self, Flags};
use crate::output::Format;
use facts::Facts;
use report::Report;

/// Say what is wrong with the installation, each fault with a remedy.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Only what an installation needs.
    #[arg(long)]
    pre: bool,
    #[command(flatten)]
    flags: Flags,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs `weft check`; fails when a check does.
pub(crate) fn run(told: &Check) -> anyhow::Result<ExitCode> {
    let facts = cluster::block_on(async {
        let client = cluster::connect(&told.flags).await?;
        Ok(gather::gather(&client, told.flags.namespace.as_deref(), told.pre).await)
    })?;
    let report = weigh(&facts, told.pre);
    told.output.print(&report, report::table)?;
    Ok(if report.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every check that makes sense by these facts.
fn weigh(facts: &Facts, pre: bool) -> Report {
    let mut lines = Vec::new();
    if !platform::kubernetes(facts, &mut lines) {
        return Report::new(lines);
    }
    platform::gateway_api(facts, pre, &mut lines);
    if pre {
        platform::own_rights(facts, &mut lines);
        return Report::new(lines);
    }
    plane::control_plane(facts, &mut lines);
    if facts.is_installed() {
        platform::crds(facts, &mut lines);
        platform::control_plane_rights(facts, &mut lines);
        plane::injection(facts, &mut lines);
        plane::certificates(facts, &mut lines);
    }
    workloads::namespaces(facts, &mut lines);
    workloads::pods(facts, &mut lines);
    services::ports(facts, &mut lines);
    if facts.is_installed() {
        mesh::proxies(facts, &mut lines);
        mesh::objects(facts, &mut lines);
        mesh::clients(facts, &mut lines);
    }
    Report::new(lines)
}
