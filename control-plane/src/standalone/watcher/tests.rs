use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use weft_api::object::{Kind, ObjectRef};

use super::*;

/// An edit acts within this time (a second is promised; the machine that runs tests may be busy).
const PATIENCE: Duration = Duration::from_secs(20);

fn namespace(name: &str, team: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{team: {team}}}}}\n")
}

fn named(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::Namespace, "", name)
}

async fn next(changes: &mut Receiver<Change>) -> Change {
    timeout(PATIENCE, changes.recv())
        .await
        .expect("an edit acts in time")
        .expect("the watch goes on")
}

/// Receives until something in force has changed, or something is said; files may be seen in between.
async fn until(changes: &mut Receiver<Change>, done: impl Fn(&Change) -> bool) -> Change {
    loop {
        let change = next(changes).await;
        if done(&change) {
            return change;
        }
    }
}

fn applied(change: &Change) -> Vec<ObjectRef> {
    change
        .applied
        .iter()
        .map(weft_api::object::Object::object_ref)
        .collect()
}

fn started(files: &[(&str, String)]) -> (TempDir, Receiver<Change>) {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let changes = watch(dir.path().to_owned()).unwrap();
    (dir, changes)
}

#[tokio::test]
async fn edits_additions_and_removals_are_seen() {
    let (dir, mut changes) = started(&[("a.yaml", namespace("a", "x"))]);
    assert_eq!(applied(&next(&mut changes).await), [named("a")]);

    fs::write(dir.path().join("b.yml"), namespace("b", "x")).unwrap();
    let change = until(&mut changes, |change| !change.applied.is_empty()).await;
    assert_eq!(applied(&change), [named("b")]);

    // As editors save: a new file in place of the old one.
    fs::write(dir.path().join(".a.yaml.swp"), namespace("a", "y")).unwrap();
    fs::rename(dir.path().join(".a.yaml.swp"), dir.path().join("a.yaml")).unwrap();
    let change = until(&mut changes, |change| !change.applied.is_empty()).await;
    assert_eq!(applied(&change), [named("a")]);
    assert_eq!(change.applied[0].metadata().labels.as_ref().unwrap()["team"], "y");

    fs::remove_file(dir.path().join("b.yml")).unwrap();
    let change = until(&mut changes, |change| !change.deleted.is_empty()).await;
    assert_eq!(change.deleted, [named("b")]);
}

#[tokio::test]
async fn a_mistake_is_said_and_changes_nothing_until_it_is_repaired() {
    let (dir, mut changes) = started(&[("a.yaml", namespace("a", "x"))]);
    next(&mut changes).await;

    fs::write(
        dir.path().join("a.yaml"),
        namespace("a", "x").replace("labels", "label"),
    )
    .unwrap();
    let change = until(&mut changes, |change| !change.problems.is_empty()).await;
    assert!(change.applied.is_empty() && change.deleted.is_empty());
    assert!(
        change
            .problems
            .iter()
            .any(|problem| problem.remedy == "did you mean labels?"),
        "{:?}",
        change.problems
    );

    fs::write(dir.path().join("a.yaml"), namespace("a", "y")).unwrap();
    let change = until(&mut changes, |change| change.problems.is_empty()).await;
    assert_eq!(applied(&change), [named("a")]);
}

#[tokio::test]
async fn a_directory_behind_a_symlink_can_be_swapped() {
    let dir = TempDir::new().unwrap();
    for (version, team) in [("one", "x"), ("two", "y")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("a.yaml"), namespace("a", team)).unwrap();
    }
    let link = dir.path().join("manifests");
    symlink(dir.path().join("one"), &link).unwrap();
    let mut changes = watch(link.clone()).unwrap();
    next(&mut changes).await;

    symlink(dir.path().join("two"), dir.path().join("new")).unwrap();
    fs::rename(dir.path().join("new"), &link).unwrap();
    let change = until(&mut changes, |change| !change.applied.is_empty()).await;
    assert_eq!(change.applied[0].metadata().labels.as_ref().unwrap()["team"], "y");

    // The watch has moved along.
    fs::write(dir.path().join("two").join("b.yaml"), namespace("b", "x")).unwrap();
    let change = until(&mut changes, |change| !change.applied.is_empty()).await;
    assert_eq!(applied(&change), [named("b")]);
}

#[tokio::test]
async fn a_directory_that_vanishes_takes_nothing_with_it() {
    let (dir, mut changes) = started(&[("a.yaml", namespace("a", "x"))]);
    next(&mut changes).await;
    let path = dir.path().to_owned();
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    let change = until(&mut changes, |change| !change.problems.is_empty()).await;
    assert!(change.deleted.is_empty(), "{change:?}");
    assert!(
        change.problems[0].reason.contains("stays in force"),
        "{:?}",
        change.problems
    );

    fs::rename(&away, &path).unwrap();
    let change = until(&mut changes, |change| change.problems.is_empty()).await;
    assert!(
        change.applied.is_empty() && change.deleted.is_empty(),
        "{change:?}"
    );
}

#[tokio::test]
async fn files_that_are_no_text_are_said_and_skipped() {
    let (dir, mut changes) = started(&[("a.yaml", namespace("a", "x")), ("notes.txt", "a: [".to_owned())]);
    assert!(next(&mut changes).await.problems.is_empty());
    fs::write(dir.path().join("b.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    let change = until(&mut changes, |change| !change.problems.is_empty()).await;
    assert_eq!(change.problems[0].reason, "the file is not UTF-8 text");
    assert!(change.deleted.is_empty());
}

#[test]
fn a_directory_that_is_not_there_is_an_error_at_once() {
    let dir = TempDir::new().unwrap();
    let error = watch(dir.path().join("nowhere")).unwrap_err();
    assert!(matches!(error, WatchError::Unreadable { .. }));
}
