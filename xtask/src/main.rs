//! What the repository makes of itself: generated files and the container image. Run as `cargo xtask …`.

use clap::Parser;

/// What to make.
#[derive(Debug, Parser)]
enum Command {
    /// Prints our CRDs as YAML.
    Crds,
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Crds => {
            for crd in weft_api::crd::all() {
                print!("---\n{}", serde_yaml::to_string(&crd)?);
            }
        }
    }
    Ok(())
}
