//! HTTP: what both versions share is a head from the `http` crate and a [`Body`], a stream of frames.
//!
//! `hyper` stops at [`h1`] and the `h2` crate at [`h2`] and [`Body`]; above them a request is a request. What a
//! message may look like is decided in `weft_proxy_core::hygiene`.

pub mod body;
pub mod flush;
pub mod guard;
pub mod h1;
pub mod h2;
pub mod target;
pub mod upload;

pub use body::{Body, BodyError};
pub use target::absolute;
pub use upload::{Upload, UploadBody};

/// Decoded head of a message at most, in bytes, on every version alike.
pub const MAX_HEAD: u32 = 64 * 1024;
