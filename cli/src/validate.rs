//! `weft validate DIR|FILE…`: says everything that is wrong with manifests, as the control plane would.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use weft_api::validate::{Finding, check_all};
use weft_control_plane::standalone::directory::{self, Content};
use weft_control_plane::standalone::state::unreadable;

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
    let files = read(&told.paths)?;
    if files.is_empty() {
        // Whoever asks means some, and a wrong folder must not look like a good one.
        bail!("there is no .yaml, .yml or .json file in {}", listed(&told.paths));
    }
    let verdict = weigh(&files);
    told.output.print(&verdict, table)?;
    Ok(if verdict.valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Checks files, together.
fn weigh(files: &[(String, Content)]) -> Verdict {
    let texts = files
        .iter()
        .filter_map(|(file, content)| Some((file.as_str(), &**content.as_ref().ok()?)));
    let mut findings = check_all(texts);
    let reasons = files
        .iter()
        .filter_map(|(file, content)| Some((file, content.as_ref().err()?)));
    findings.extend(reasons.map(|(file, reason)| unreadable(file, reason)));
    findings.sort();
    Verdict {
        valid: !findings.iter().any(Finding::is_error),
        files: files.len(),
        findings,
    }
}

fn table(verdict: &Verdict) -> String {
    let mut lines: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
    let errors = verdict
        .findings
        .iter()
        .filter(|finding| finding.is_error())
        .count();
    lines.push(format!(
        "{}, {}\n",
        counted(verdict.files, "file"),
        counted(errors, "error")
    ));
    lines.join("\n")
}

/// A number of things in words.
fn counted(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

/// The files themselves, and the manifests of folders, chosen and limited as the control plane does.
fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<(String, Content)>> {
    let mut files = Vec::new();
    for path in paths {
        let unreadable = || format!("{} can't be read", path.display());
        if fs::metadata(path).with_context(unreadable)?.is_dir() {
            let found = directory::read(path).with_context(unreadable)?;
            files.extend(
                found
                    .into_iter()
                    .map(|(name, content)| (path.join(&*name).display().to_string(), content)),
            );
        } else {
            files.push((path.display().to_string(), directory::read_file(path)));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(files: &[(&str, &[u8])]) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        weigh(&read(&[dir.path().to_owned()]).unwrap())
    }

    #[test]
    fn the_shops_manifests_are_valid() {
        let shop = weft_shop::manifests::ALL.map(|(name, text)| (name, text.as_bytes()));
        let others: [(&str, &[u8]); 2] = [("notes.txt", b"no manifest"), (".#user.yaml", b"an editor's")];
        let verdict = checked(&[&shop[..], &others[..]].concat());
        assert!(verdict.valid);
        assert_eq!((verdict.files, verdict.findings.len()), (shop.len(), 0));
        read(&["/nowhere.yaml".into()]).unwrap_err();
    }

    #[test]
    fn errors_are_counted_and_shown() {
        let broken =
            weft_shop::manifests::ALL.map(|(name, text)| (name, text.replace("weight: 90", "weight: -1")));
        let verdict = checked(&broken.each_ref().map(|(name, text)| (*name, text.as_bytes())));
        assert!(!verdict.valid);
        let text = table(&verdict);
        assert!(text.contains("routes.yaml:") && text.contains("weight"), "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_read_hides_no_other() {
        let verdict = checked(&[("a.yaml", b"kind: [\n"), ("b.yaml", b"\xff\xfe")]);
        assert!(!verdict.valid);
        let text = table(&verdict);
        assert!(
            text.contains("a.yaml:2:1: error") && text.contains("b.yaml: error: the file is not UTF-8 text"),
            "{text}"
        );
        assert!(text.ends_with("2 files, 2 errors\n"), "{text}");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let device = ("/dev/zero".to_owned(), directory::read_file("/dev/zero".as_ref()));
        let verdict = weigh(&[device]);
        assert!(!verdict.valid);
        assert!(table(&verdict).contains("this is no regular file"));
    }
}
