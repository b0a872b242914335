//! Alerts and dashboard: on metrics that exist, and each says what to do.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::helm::{EVERYTHING, find, objects, root};

/// Names of our metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text
        .split(|c| !is_name(c))
        .filter(|word| word.starts_with("weft_"));
    words
        .map(|word| word.trim_end_matches("_bucket").to_owned())
        .collect()
}

/// Names of metrics that the programs record: whole strings in their sources.
fn recorded(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            recorded(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            found.extend(
                text.split('"')
                    .filter(|word| word.starts_with("weft_"))
                    .map(str::to_owned),
            );
        }
    }
}

/// The expressions below a key, wherever it is.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member {
                    Value::String(text) if key == "expr" || key == "query" => found.push(text.clone()),
                    _ => expressions(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[test]
fn alerts_and_dashboard_are_of_metrics_that_exist() {
    let mut known = BTreeSet::new();
    for folder in ["proxy/src", "control-plane/src", "ops/src"] {
        recorded(&root().join(folder), &mut known);
    }
    let objects = objects(&EVERYTHING);
    let dashboard = find(&objects, "ConfigMap", "weft-dashboard")["data"]["weft.json"].as_str();
    let dashboard: Value = serde_json::from_str(dashboard.unwrap()).unwrap();
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    expressions(&find(&objects, "PrometheusRule", "weft")["spec"], &mut asked);
    assert!(
        asked.len() > 25,
        "the search found {} expressions only",
        asked.len()
    );
    let used: BTreeSet<_> = asked.iter().flat_map(|text| metrics(text)).collect();
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "nobody records {unknown:?}");
}

#[test]
fn each_alert_says_what_is_at_stake() {
    let objects = objects(&EVERYTHING);
    let groups = &find(&objects, "PrometheusRule", "weft")["spec"]["groups"];
    let mut names = BTreeSet::new();
    for group in groups.as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            let name = rule["alert"].as_str().unwrap();
            assert!(names.insert(name), "{name} twice");
            assert!(rule["labels"]["severity"].is_string(), "{name}");
            assert!(rule["annotations"]["summary"].is_string(), "{name}");
            assert!(rule["annotations"]["description"].is_string(), "{name}");
        }
    }
    assert!(names.len() > 8, "{names:?}");
}

#[test]
fn sidecars_are_found_by_the_name_of_their_port() {
    let objects = objects(&EVERYTHING);
    let endpoint = &find(&objects, "PodMonitor", "weft-proxies")["spec"]["podMetricsEndpoints"][0];
    let sources = fs::read_to_string(root().join("control-plane/core/src/inject/sidecar.rs")).unwrap();
    let port = endpoint["port"].as_str().unwrap();
    assert!(
        sources.contains(&format!("\"name\": \"{port}\"")),
        "the injector names no port {port}"
    );
}
