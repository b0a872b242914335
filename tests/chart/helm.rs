//! Helm, and what it renders.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

/// Everything that is off by default, on.
pub(crate) const EVERYTHING: [&str; 6] = [
    "--set=monitoring.podMonitor.enabled=true",
    "--set=monitoring.prometheusRule.enabled=true",
    "--set=monitoring.dashboard.enabled=true",
    "--set=controlPlane.autoscaling.enabled=true",
    "--set=identity.suppliedRoot=true",
    "--set=identity.podCertificates=true",
];

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// A file or folder of the charts.
pub(crate) fn charts(path: &str) -> String {
    root().join("charts").join(path).display().to_string()
}

/// The helm that `tests/cluster/build helm` made, or the machine's.
fn program() -> PathBuf {
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster");
    let output = Command::new("bash")
        .args(["-c", r#". "$0/settings" && echo "$BIN/helm""#])
        .arg(settings)
        .output()
        .expect("bash runs");
    let built = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim_end());
    if built.exists() { built } else { "helm".into() }
}

/// What helm printed, or why it failed.
pub(crate) fn helm(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program())
        .args(arguments)
        .output()
        .expect("helm is missing: run `tests/cluster/build helm` first");
    let text = |bytes| String::from_utf8(bytes).expect("helm writes UTF-8");
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// The text of a chart with `settings`, as a cluster would get it.
pub(crate) fn render(chart: &str, settings: &[&str]) -> Result<String, String> {
    let chart = charts(chart);
    let always = [
        "template",
        "weft",
        &chart,
        "--namespace=weft-system",
        "--kube-version=v1.36.0",
    ];
    helm(&[&always, settings].concat())
}

/// The objects of the chart weft with `settings`.
pub(crate) fn objects(settings: &[&str]) -> Vec<Value> {
    read(&render("weft", settings).expect("these settings are good"))
}

/// The objects in a YAML text.
pub(crate) fn read(yaml: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).expect("rendered YAML"))
        .filter(|object| !object.is_null())
        .collect()
}

/// `Kind/name` of every object.
pub(crate) fn names(objects: &[Value]) -> BTreeSet<String> {
    let name = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
    };
    objects.iter().map(name).collect()
}

/// The one object of a kind with a name.
pub(crate) fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let one = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert_eq!(found.next(), None, "{kind} {name} twice");
    one
}
