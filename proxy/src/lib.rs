//! The sidecar proxy: the I/O shell around weft-proxy-core.
