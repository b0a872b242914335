//! The data plane end to end: workers of two proxies in one process, real sockets, real mTLS, configuration by hand.

#![allow(unreachable_pub, clippy::unwrap_used)] // a test binary has no outside, and may panic

mod apps;
mod mesh;

mod answers;
mod egress;
mod http1;
mod http2;
mod identity;
mod life;
mod opaque;
mod retry;
mod strict;
