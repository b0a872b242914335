//! Stops the build at once on systems that the binary can't run on: a build script waits for no dependency.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        println!(
            "cargo::error=weft runs on Linux only: its sidecars and its demo use what other systems don't have"
        );
    }
}
