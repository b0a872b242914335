//! `weft-proxy init`: puts the rules in force that lead a pod's connections through its proxy.
//!
//! What they are is decided in `weft_proxy_core::capture`; here they are told to the kernel, over netlink, without a
//! shell or an `nft` binary. It runs in the pod's network namespace, once, before everything else; run again, it
//! replaces what is there in one step, so that no connection slips by.

use std::process::ExitCode;

use weft_proxy_core::capture::{
    INBOUND_PORT, OUTBOUND_PORT, Options, OptionsError, PROXY_UID, Ruleset, TABLE, cidrs, ports,
};

mod decode;
mod encode;
mod kernel;
mod numbers;
mod wire;

pub use kernel::{CaptureError, install, installed, remove};

/// Flags and environment of `weft proxy init`.
#[derive(Clone, Debug, clap::Args)]
pub struct InitArgs {
    /// The uid that the proxy runs as, whose connections are not captured.
    #[arg(long, env = "WEFT_PROXY_UID", default_value_t = PROXY_UID, value_name = "UID")]
    pub proxy_uid: u32,
    /// The proxy's port for outbound connections.
    #[arg(long, env = "WEFT_OUTBOUND_PORT", default_value_t = OUTBOUND_PORT, value_name = "PORT")]
    pub outbound_port: u16,
    /// The proxy's port for inbound connections.
    #[arg(long, env = "WEFT_INBOUND_PORT", default_value_t = INBOUND_PORT, value_name = "PORT")]
    pub inbound_port: u16,
    /// Inbound ports to leave alone: ports and ranges, separated by commas.
    #[arg(
        long,
        env = "WEFT_SKIP_INBOUND_PORTS",
        default_value = "",
        value_name = "PORTS"
    )]
    pub skip_inbound_ports: String,
    /// Outbound ports to leave alone: ports and ranges, separated by commas.
    #[arg(
        long,
        env = "WEFT_SKIP_OUTBOUND_PORTS",
        default_value = "",
        value_name = "PORTS"
    )]
    pub skip_outbound_ports: String,
    /// Outbound destinations to leave alone: address blocks, separated by commas.
    #[arg(
        long,
        env = "WEFT_SKIP_OUTBOUND_CIDRS",
        default_value = "",
        value_name = "CIDRS"
    )]
    pub skip_outbound_cidrs: String,
    /// Print the rules and change nothing.
    #[arg(long, conflicts_with_all = ["remove", "show"])]
    pub dry_run: bool,
    /// Take the rules away.
    #[arg(long, conflicts_with = "show")]
    pub remove: bool,
    /// Print the rules that are in force; exit code 1 where there are none.
    #[arg(long)]
    pub show: bool,
}

/// Why capture was not set up.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("{0}: {1}")]
    Flag(&'static str, OptionsError),
    #[error("capture is not in force: there is no table inet {TABLE} in this network namespace")]
    Absent,
    #[error(transparent)]
    Kernel(#[from] CaptureError),
}

/// Does what the flags say. Exit code 2 for wrong flags, 1 where the kernel refuses.
pub fn init(args: &InitArgs) -> ExitCode {
    match act(args) {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weft-proxy init: {error}");
            ExitCode::from(if matches!(error, InitError::Flag(..)) {
                2
            } else {
                1
            })
        }
    }
}

fn act(args: &InitArgs) -> Result<String, InitError> {
    if args.remove {
        remove()?;
        return Ok("capture is removed\n".to_owned());
    }
    if args.show {
        return Ok(installed()?.ok_or(InitError::Absent)?.to_string());
    }
    let ruleset = ruleset(args)?;
    if args.dry_run {
        return Ok(ruleset.to_string());
    }
    install(&ruleset)?;
    Ok("capture is in force\n".to_owned())
}

fn ruleset(args: &InitArgs) -> Result<Ruleset, InitError> {
    let of = |flag: &'static str| move |error| InitError::Flag(flag, error);
    let options = Options {
        proxy_uid: args.proxy_uid,
        outbound_port: args.outbound_port,
        inbound_port: args.inbound_port,
        skip_inbound_ports: ports(&args.skip_inbound_ports).map_err(of("--skip-inbound-ports"))?,
        skip_outbound_ports: ports(&args.skip_outbound_ports).map_err(of("--skip-outbound-ports"))?,
        skip_outbound_cidrs: cidrs(&args.skip_outbound_cidrs).map_err(of("--skip-outbound-cidrs"))?,
    };
    Ruleset::new(&options).map_err(|error| {
        let flag = match error {
            OptionsError::Root => "--proxy-uid",
            _ => "--outbound-port and --inbound-port",
        };
        InitError::Flag(flag, error)
    })
}
