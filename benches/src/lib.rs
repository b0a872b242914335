//! Benchmarks, and the worlds they run in.
//!
//! Two kinds. `micro/` times the pure hot functions with criterion (`cargo bench -p weft-benches`): what a request
//! costs in decisions alone. `pair/` measures two sidecars on a wire beside other proxies
//! (`benches/pair/run`); its load at a fixed rate comes from the `latency` binary here.
//!
//! This library holds the inputs both cores are given: [`proxy`] and [`control_plane`]. It may depend on the cores and
//! on the API's object types, not on the shells. How to read the numbers is in `README.md`.

pub mod control_plane;
pub mod proxy;
