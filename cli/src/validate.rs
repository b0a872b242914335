//! `weft validate DIR|FILE…`: says everything that is wrong with manifests, as the control plane would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use weft_api::validate::{Finding, check_all};

use crate::output::Format;

/// Check manifests: every problem with file, line and field.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// Files, and folders whose .yaml, .yml and .json files are read.
    #[arg(required = true, value_name = "DIR|FILE")]
    paths: Vec<PathBuf>,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Serialize)]
struct Verdict {
    /// No finding is an error.
    valid: bool,
    /// Files that were read.
    files: usize,
    findings: Vec<Finding>,
}

/// Runs `weft validate`; fails when there is an error.
pub(crate) fn run(told: &Validate) -> anyhow::Result<ExitCode> {
    let mut texts = Vec::new();
    for path in &told.paths {
        for file in files(path)? {
            let text =
                fs::read_to_string(&file).with_context(|| format!("{} can't be read", file.display()))?;
            texts.push((file.display().to_string(), text));
        }
    }
    let findings = check_all(texts.iter().map(|(file, text)| (file.as_str(), text.as_str())));
    let verdict = Verdict {
        valid: !findings.iter().any(Finding::is_error),
        files: texts.len(),
        findings,
    };
    told.output.print(&verdict, table)?;
    Ok(if verdict.valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn table(verdict: &Verdict) -> String {
    let mut lines: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
    let errors = verdict
        .findings
        .iter()
        .filter(|finding| finding.is_error())
        .count();
    lines.push(format!("{} files, {errors} errors\n", verdict.files));
    lines.join("\n")
}

/// The file itself, or the manifests of a folder by name; folders in it are not entered.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let unreadable = || format!("{} can't be read", path.display());
    if !fs::metadata(path).with_context(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(unreadable)? {
        let file = entry.with_context(unreadable)?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if file.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shops_manifests_are_valid() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in weft_shop::manifests::ALL {
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::write(dir.path().join("notes.txt"), "no manifest").unwrap();
        let texts = weft_shop::manifests::ALL;
        assert_eq!(check_all(texts), []);
        assert_eq!(files(dir.path()).unwrap().len(), texts.len());
        files(&dir.path().join("missing.yaml")).unwrap_err();
    }

    #[test]
    fn errors_are_counted_and_shown() {
        let broken =
            weft_shop::manifests::ALL.map(|(name, text)| (name, text.replace("weight: 90", "weight: -1")));
        let findings = check_all(broken.iter().map(|(name, text)| (*name, text.as_str())));
        assert!(findings.iter().any(Finding::is_error));
        let verdict = Verdict {
            valid: false,
            files: 4,
            findings,
        };
        let text = table(&verdict);
        assert!(text.contains("routes.yaml:") && text.contains("weight"), "{text}");
    }
}
