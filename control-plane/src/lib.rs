//! The control plane: watches a cluster or a folder of manifests, answers proxies over xDS, signs certificates, keeps the registry.
//!
//! Everything it decides is decided in `weft-control-plane-core`; this crate has the effects: files, sockets, TLS, gRPC,
//! keys. It may depend on the core, on the object types (`weft-api`), on the wire contract and on what all processes
//! share; never on a proxy. One thread runs it.
//!
//! Start at [`app`], which puts it together from top to bottom. A stream's path: [`server`] (who is it) -> [`ads`]
//! (what does it want, what may it have) -> [`publish`] (what is there, who follows what) -> [`encode`] (how is that
//! said in its dialect). [`wire`] reads and writes the discovery messages.

use std::process::ExitCode;

pub mod admin;
pub mod ads;
pub mod app;
pub mod ca;
pub mod certificates;
pub mod clock;
pub mod config;
pub mod counters;
pub mod encode;
pub mod kubernetes;
pub mod own;
pub mod peer;
pub mod publish;
pub mod registry;
pub mod replica;
pub mod server;
pub mod standalone;
pub mod state;
pub mod tokens;
pub mod wire;

/// Runs a control plane until it is told to end: what `weft control-plane` and `weft-control-plane` do.
pub fn run(args: &config::Args) -> ExitCode {
    app::run(args)
}
