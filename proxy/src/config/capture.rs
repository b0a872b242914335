//! Settings of a proxy that a pod's connections are led through (`weft proxy init`).

use std::net::{IpAddr, SocketAddr};

use weft_proxy_core::capture::{PortRange, cidrs, ports};
use weft_proxy_core::cidr::{self, Cidr};

use super::RunArgs;
use super::parse::Problems;
use crate::probe::Probes;

/// What is led through this proxy, and what of it is known beforehand.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Where outbound connections are led to.
    pub outbound: Option<SocketAddr>,
    /// Where inbound connections are led to.
    pub inbound: Option<SocketAddr>,
    /// Where the cluster's own addresses are.
    pub mesh_cidrs: Vec<Cidr>,
    /// Ports whose connections are opaque bytes.
    pub opaque_ports: Vec<PortRange>,
    /// The application's probes.
    pub probes: Probes,
}

impl Capture {
    /// Whether the cluster may have the address `ip`.
    pub fn may_be_meshed(&self, ip: IpAddr) -> bool {
        self.mesh_cidrs.iter().any(|cidr| cidr.contains(ip))
    }

    /// Whether connections to `port` are opaque, whatever they carry.
    pub fn is_opaque(&self, port: u16) -> bool {
        self.opaque_ports.iter().any(|ports| ports.contains(port))
    }
}

/// Reads the flags, every one of them before the first `?`, so that all mistakes are found.
pub(super) fn read(args: &RunArgs, problems: &mut Problems) -> Option<Capture> {
    let outbound = address("--captured-outbound", args.captured_outbound.as_deref(), problems);
    let inbound = address("--captured-inbound", args.captured_inbound.as_deref(), problems);
    let mesh_cidrs = args.mesh_cidrs.as_deref().map_or_else(
        || Some(cidr::PRIVATE.to_vec()),
        |text| problems.check("--mesh-cidrs", text, cidrs(text)),
    );
    let opaque_ports = problems.check("--opaque-ports", &args.opaque_ports, ports(&args.opaque_ports));
    let probes = probes(args, problems);
    Some(Capture {
        outbound,
        inbound,
        mesh_cidrs: mesh_cidrs?,
        opaque_ports: opaque_ports?,
        probes: probes?,
    })
}

fn address(flag: &'static str, given: Option<&str>, problems: &mut Problems) -> Option<SocketAddr> {
    given.and_then(|text| problems.address(flag, text))
}

fn probes(args: &RunArgs, problems: &mut Problems) -> Option<Probes> {
    let first = args.pod_ips.split(',').next().map(str::trim).unwrap_or_default();
    let address = match first {
        "" => None,
        first => problems.parse("--pod-ips", first),
    };
    problems.check("--probes", &args.probes, Probes::read(&args.probes, address))
}
