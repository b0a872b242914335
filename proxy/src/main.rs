//! `weft-proxy`: the sidecar as a program of its own.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The sidecar proxy of the mesh.
#[derive(Debug, Parser)]
#[command(name = "weft-proxy", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the data plane.
    Run(Box<weft_proxy::config::RunArgs>),
    /// Leads the connections of this network namespace through the proxy.
    Init(Box<weft_proxy::capture::InitArgs>),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(args) => weft_proxy::run(&args),
        Command::Init(args) => weft_proxy::capture::init(&args),
    }
}
