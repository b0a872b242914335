//! Static programs whose bytes don't tell where they were built.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::layer::Program;

/// Between flags in `CARGO_ENCODED_RUSTFLAGS`, where a path may hold spaces.
const FLAG_SEPARATOR: &str = "\u{1f}";

/// A program: its package, and what cargo calls it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binary {
    /// The package that it is in.
    pub(crate) package: &'static str,
    /// Its name, also in the image.
    pub(crate) name: &'static str,
}

/// A line of cargo's messages, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// Builds `binaries` with `profile` in the repository at `root`, statically linked, and reads them.
pub(crate) fn build(root: &Path, profile: &str, binaries: &[Binary]) -> anyhow::Result<Vec<Program>> {
    let host = host(root)?;
    let mut command = cargo(root);
    command
        .args(["build", "--locked", "--target", &host, "--profile", profile])
        .args(["--message-format", "json-render-diagnostics"])
        .args(["--config", &format!("profile.{profile}.strip=true")]);
    if profile == "dev" {
        command.args(["--config", "profile.dev.debug=false"]);
    }
    for binary in binaries {
        command.args(["--package", binary.package, "--bin", binary.name]);
    }
    reproducible(&mut command, root, &host)?;
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("can't run cargo")?;
    if !output.status.success() {
        bail!("the programs don't build");
    }
    let built = executables(&String::from_utf8(output.stdout)?)?;
    binaries.iter().map(|binary| read(binary, &built)).collect()
}

/// Sets what makes programs static, and takes paths of this machine out of them: both compilers write them into
/// messages of panics and failed assertions.
fn reproducible(command: &mut Command, root: &Path, host: &str) -> anyhow::Result<()> {
    let moved = [
        (root.to_path_buf(), "/weft"),
        (home("CARGO_HOME", ".cargo")?, "/cargo"),
        (target(root), "/weft/target"),
    ];
    let flags = |option: &str| {
        moved
            .clone()
            .map(|(from, to)| format!("{option}{}={to}", from.display()))
    };
    let mut rust = vec!["-Ctarget-feature=+crt-static".to_owned()];
    rust.extend(flags("--remap-path-prefix="));
    command
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join(FLAG_SEPARATOR))
        .env(
            format!("CFLAGS_{}", host.replace('-', "_")),
            flags("-ffile-prefix-map=").join(" "),
        );
    Ok(())
}

/// Cargo, in the repository.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root);
    command
}

/// The folder that an environment variable names, or `default` in the home folder.
fn home(variable: &str, default: &str) -> anyhow::Result<PathBuf> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(default)))
        .with_context(|| format!("neither {variable} nor HOME is set"))
}

/// Where cargo puts what it builds.
fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// The target that cargo builds for by itself. It is named on the command line all the same: only then flags hold
/// for the programs alone, and not for build scripts and macros, which can't be static.
fn host(root: &Path) -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(rustc)
        .current_dir(root)
        .arg("-vV")
        .output()
        .context("can't run rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV doesn't name its host")?;
    if !host.contains("-linux-") {
        bail!("images hold Linux programs, and {host} builds none: run this on Linux");
    }
    Ok(host.to_owned())
}

/// The paths of all programs in cargo's messages.
fn executables(messages: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).context("cargo's messages are no JSON")?;
        found.extend(message.executable);
    }
    Ok(found)
}

fn read(binary: &Binary, built: &[PathBuf]) -> anyhow::Result<Program> {
    let path = built
        .iter()
        .find(|path| path.file_name().is_some_and(|name| name == binary.name))
        .with_context(|| format!("cargo built no {}", binary.name))?;
    let content = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    Ok(Program {
        name: binary.name.to_owned(),
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_other_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","executable":null}"#,
            "\n",
            r#"{"reason":"build-script-executed"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/t/weft-proxy"}"#,
        );
        assert_eq!(executables(messages).unwrap(), [PathBuf::from("/t/weft-proxy")]);
        assert!(executables("warning: no JSON").is_err());
    }

    #[test]
    fn no_path_of_this_machine_gets_into_a_program() {
        let mut command = Command::new("cargo");
        let root = Path::new("/some where/weft");
        reproducible(&mut command, root, "x86_64-unknown-linux-gnu").unwrap();
        let value = |name: &str| {
            let found = command.get_envs().find(|(known, _)| *known == name);
            found
                .and_then(|(_, value)| value?.to_str())
                .unwrap_or_default()
                .to_owned()
        };
        let rust = value("CARGO_ENCODED_RUSTFLAGS");
        assert!(
            rust.split(FLAG_SEPARATOR)
                .any(|flag| flag == "-Ctarget-feature=+crt-static")
        );
        assert!(
            rust.contains("--remap-path-prefix=/some where/weft=/weft"),
            "{rust:?}"
        );
        assert!(value("CFLAGS_x86_64_unknown_linux_gnu").contains("=/cargo"));
    }
}
