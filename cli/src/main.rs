//! The `weft` command: everything a person does with the mesh, and every process of it, in one binary.
//!
//! One file per command, each with its arguments and its `run`. Results go to stdout in the form that `-o` asks for;
//! errors go to stderr. Exit codes: 0 ok, 1 failed, 2 wrong usage. `proxy run` and `control-plane` are the shells
//! themselves, linked in; `shop` is the sample system. Start at [`demo`] to see them work together.
//!
//! May depend on everything but tests and benches; nothing depends on it.

mod ca;
mod check;
mod cluster;
mod completion;
mod demo;
mod identity;
mod inject;
mod leash;
mod objects;
mod output;
mod shop;
mod status;
mod token;
mod validate;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// A service mesh: sidecar, control plane and tools in one binary.
#[derive(Debug, Parser)]
#[command(name = "weft", version, max_term_width = 110)]
struct Weft {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    /// The sidecar.
    #[command(subcommand)]
    Proxy(Proxy),
    /// Run the control plane, on a folder of manifests or in a cluster.
    ControlPlane(Box<weft_control_plane::config::Args>),
    /// Tokens of workloads.
    #[command(subcommand)]
    Token(token::Token),
    Identity(identity::Identity),
    Inject(inject::Inject),
    Uninject(inject::Uninject),
    /// The root of the mesh.
    #[command(subcommand)]
    Ca(ca::Ca),
    Check(check::Check),
    Status(status::Status),
    Validate(validate::Validate),
    Version(version::Version),
    Completion(completion::Completion),
    /// Processes of the sample system.
    #[command(subcommand, hide = true)]
    Shop(shop::Shop),
}

#[derive(Debug, Subcommand)]
enum Proxy {
    /// Run a sidecar.
    Run(Box<weft_proxy::config::RunArgs>),
    /// Lead the connections of this network namespace through the sidecar.
    Init(Box<weft_proxy::capture::InitArgs>),
}

fn main() -> ExitCode {
    if let Err(code) = leash::follow_parent() {
        return code;
    }
    let result = match Weft::parse().command {
        Command::Demo(told) => demo::run(told),
        Command::Proxy(Proxy::Run(told)) => Ok(weft_proxy::run(&told)),
        Command::Proxy(Proxy::Init(told)) => Ok(weft_proxy::capture::init(&told)),
        Command::ControlPlane(told) => Ok(weft_control_plane::run(&told)),
        Command::Token(told) => token::run(told).map(|()| ExitCode::SUCCESS),
        Command::Identity(told) => identity::run(&told).map(|()| ExitCode::SUCCESS),
        Command::Inject(told) => inject::inject(&told),
        Command::Uninject(told) => inject::uninject(&told).map(|()| ExitCode::SUCCESS),
        Command::Ca(told) => ca::run(told).map(|()| ExitCode::SUCCESS),
        Command::Check(told) => check::run(&told),
        Command::Status(told) => status::run(told).map(|()| ExitCode::SUCCESS),
        Command::Validate(told) => validate::run(&told),
        Command::Version(told) => version::run(&told).map(|()| ExitCode::SUCCESS),
        Command::Completion(told) => completion::run(&told, Weft::command()).map(|()| ExitCode::SUCCESS),
        Command::Shop(told) => shop::run(told).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", in_words(&error));
        ExitCode::FAILURE
    })
}

/// An error and its causes, without those that it tells of itself.
fn in_words(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if words.is_empty() {
            words = cause;
        } else if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Weft::command().debug_assert();
    }

    /// Placeholders stand for themselves; brackets are around what may be left out.
    #[test]
    fn the_readmes_commands_are_understood() {
        let commands = include_str!("../../README.md")
            .lines()
            .filter(|line| line.starts_with("weft "));
        let mut count = 0;
        for line in commands {
            let command = line.split('#').next().unwrap_or_default().replace(['[', ']'], "");
            if let Err(error) = Weft::try_parse_from(command.split_whitespace()) {
                assert_eq!(
                    error.kind(),
                    clap::error::ErrorKind::DisplayHelp,
                    "{line}: {error}"
                );
            }
            count += 1;
        }
        assert!(count > 10, "only {count} commands were found");
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("refused").context("cannot connect: refused");
        let error = error.context("no certificate");
        assert_eq!(in_words(&error), "no certificate: cannot connect: refused");
    }
}
