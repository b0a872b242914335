//! Writes a target's seeds into a folder: `seeds TARGET FOLDER`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(folder)) = (arguments.next(), arguments.next()) else {
        eprintln!("seeds TARGET FOLDER");
        return ExitCode::from(2);
    };
    let Some(target) = weft_fuzz::TARGETS.iter().find(|target| target.name == name) else {
        eprintln!("there is no target {name}");
        return ExitCode::from(2);
    };
    for (number, seed) in (target.seeds)().iter().enumerate() {
        let path = std::path::Path::new(&folder).join(format!("seed-{number}"));
        if let Err(error) = std::fs::write(&path, seed) {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
