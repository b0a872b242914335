//! The control plane: the effects around weft-control-plane-core.

pub mod encode;
