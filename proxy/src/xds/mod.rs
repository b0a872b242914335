//! Configuration from the control plane: the stream that brings it, and its decoding.

pub mod client;
pub mod decode;
pub mod saved;
pub mod state;
pub mod wants;
