//! What an operator does, on a real node: helm, kubectl, the shop, real pods, and `weft check` on what is well and what
//! is broken. Run by `tests/cluster/run`, which sets `KUBECONFIG`; the images' archives are in the folder that
//! `WEFT_IMAGES` names.
//!
//! Install and uninstall are the cluster's, so every test waits for its [`turn`] and leaves the cluster as it found it.

mod edges;
mod faults;
mod left_behind;
mod shop;
mod shop_test;
mod story;
mod turn;
