//! Capture in a real kernel: pods are network namespaces with veth links, routed by a node that is a namespace too, and
//! in them run the real binaries, the proxy with the rights that injection leaves it (uid 2102, no capability).
//!
//! ```text
//!   pod (uid 0)           pod's proxy (2102)        node                     pod's proxy            pod
//!   application ─ rules ─▶ 15001 ── mTLS ──────────▶ routes ───── rules ────▶ 15006 ── plaintext ─▶ application
//!                                                    control plane, "the world outside"
//! ```
//!
//! What the rules are is checked with `nft`, which reads them back and compiles our printed text to compare; what they
//! do, with connections. Applications say whom they saw and whose identity they were told, so that a test knows which
//! way a connection went. Needs root, iproute2, nftables and util-linux; there is nothing to skip here: `tests/run` says
//! by name when it can't.

mod app;
mod inbound;
mod limits;
mod load;
mod net;
mod outbound;
mod own;
mod pod;
mod probes;
mod protocols;
mod rules;
