//! Every decoder of bytes that others send, as a function of bytes.
//!
//! Each target reads its input as the process that owns the decoder does, and holds what comes out to a property that
//! does not need to know the input: what was understood reads back, and how bytes are cut decides nothing. Two drivers
//! stand on them: libFuzzer (`fuzz/run`), for as long as one likes, and the `fuzz` test of the workspace, which mutates
//! [`Target::seeds`] and what has once fallen (`fuzz/corpus`) for a moment in every run.

mod identity;
mod mesh;
mod wire;

/// A decoder under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its binary and its folder in `corpus`.
    pub name: &'static str,
    /// Decodes; panics when a property does not hold.
    pub run: fn(&[u8]),
    /// Inputs that get past the first checks.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "xds_decode",
        run: mesh::xds_decode,
        seeds: mesh::xds_resources,
    },
    Target {
        name: "discovery_request",
        run: mesh::discovery_request,
        seeds: mesh::discovery_requests,
    },
    Target {
        name: "manifests",
        run: mesh::manifests,
        seeds: mesh::objects,
    },
    Target {
        name: "http1_framing",
        run: wire::http1_framing,
        seeds: wire::http1_messages,
    },
    Target {
        name: "http2_guard",
        run: wire::http2_guard,
        seeds: wire::http2_frames,
    },
    Target {
        name: "request_head",
        run: wire::request_head,
        seeds: wire::request_heads,
    },
    Target {
        name: "protocol",
        run: wire::protocol,
        seeds: wire::first_bytes,
    },
    Target {
        name: "authority",
        run: wire::authority,
        seeds: wire::authorities,
    },
    Target {
        name: "names",
        run: identity::names,
        seeds: identity::spelled,
    },
    Target {
        name: "certificate_request",
        run: identity::certificate_request,
        seeds: identity::certificate_requests,
    },
    Target {
        name: "token",
        run: identity::token,
        seeds: identity::tokens,
    },
];

/// Runs the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target's name").run)(data);
}

/// Texts as bytes.
fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
