//! Lines on stdout for whoever started the process: one JSON object each.
//!
//! Ports are chosen by the kernel in tests and demos, so the parent learns them here. A parent that has closed the
//! pipe isn't interested, which is no error.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

/// `{"listening": <addresses>}`: every listener is bound.
pub fn listening(addresses: &impl Serialize) {
    line(&mut io::stdout().lock(), &json!({ "listening": addresses }));
}

/// `{"ready": true}`: the process is ready for the first time.
pub fn ready() {
    line(&mut io::stdout().lock(), &json!({ "ready": true }));
}

fn line(out: &mut impl Write, value: &serde_json::Value) {
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_object() {
        let mut out = Vec::new();
        line(&mut out, &json!({ "listening": { "status": "127.0.0.1:1" } }));
        assert_eq!(out, b"{\"listening\":{\"status\":\"127.0.0.1:1\"}}\n");
    }
}
