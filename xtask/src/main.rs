//! What the repository makes of itself: generated files and the container image. Run as `cargo xtask …`.
//!
//! May depend on the types that files are generated from (`weft-api`, the control plane's core); nothing depends on it.
//! Start at [`generate`] or [`image`].

mod generate;
mod image;
mod values;

use std::path::Path;

use clap::Parser;

/// What to make.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Command {
    Generate(generate::Generate),
    Image(image::Image),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Generate(told) => generate::run(&told, root()),
        Command::Image(told) => image::run(&told, root()),
    }
}

/// The repository's root.
fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}
