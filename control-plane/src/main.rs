//! The control plane as a program of its own; `weft control-plane` is the same.

use std::process::ExitCode;

use clap::Parser;

/// The control plane of the mesh.
#[derive(Debug, Parser)]
#[command(name = "weft-control-plane", version)]
struct Command {
    #[command(flatten)]
    args: weft_control_plane::config::Args,
}

fn main() -> ExitCode {
    weft_control_plane::run(&Command::parse().args)
}
