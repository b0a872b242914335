//! Compiles the shop's proto in pure Rust: no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["shop/v1/inventory.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds_with_config(files, prost_build::Config::new())?;
    Ok(())
}
