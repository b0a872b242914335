//! What an operator does, on a real node: helm, kubectl, the shop, real pods. Run by `tests/cluster/run`, which sets
//! `KUBECONFIG`; the images' archives are in the folder that `WEFT_IMAGES` names.
//!
//! Install and uninstall are the cluster's, so this is one story: nothing may run beside it.

mod shop;
#[path = "../loss/stage.rs"]
mod stage;
mod story;
