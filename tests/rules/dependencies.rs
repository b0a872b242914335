//! What each crate may depend on. The cores stay pure because nothing impure can get in.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// All that may be below `weft-proxy-core`, direct or not.
const PROXY_CORE: [&str; 22] = [
    "aho-corasick",
    "bytes",
    "cfg-if",
    "equivalent",
    "fastrand",
    "fnv",
    "hashbrown",
    "http",
    "indexmap",
    "itoa",
    "memchr",
    "proc-macro2",
    "quote",
    "regex",
    "regex-automata",
    "regex-syntax",
    "smallvec",
    "syn",
    "thiserror",
    "thiserror-impl",
    "twox-hash",
    "unicode-ident",
];

/// Packages that do I/O, read a clock or bring a runtime: never below a core, however far.
const IMPURE: [&str; 14] = [
    "tokio",
    "hyper",
    "hyper-util",
    "h2",
    "tonic",
    "rustls",
    "tokio-rustls",
    "aws-lc-rs",
    "kube-client",
    "kube-runtime",
    "envoy-types",
    "weft-xds-proto",
    "socket2",
    "mio",
];

/// Which of our crates each of our crates may name.
const DIRECTIONS: [(&str, &[&str]); 10] = [
    ("weft-xds-proto", &[]),
    ("weft-proxy-core", &[]),
    ("weft-api", &[]),
    ("weft-identity", &[]),
    ("weft-ops", &[]),
    ("weft-control-plane-core", &["weft-api"]),
    (
        "weft-proxy",
        &["weft-proxy-core", "weft-xds-proto", "weft-identity", "weft-ops"],
    ),
    (
        "weft-control-plane",
        &[
            "weft-api",
            "weft-control-plane-core",
            "weft-xds-proto",
            "weft-identity",
            "weft-ops",
        ],
    ),
    ("weft-shop", &[]),
    (
        "weft",
        &[
            "weft-proxy",
            "weft-control-plane",
            "weft-api",
            "weft-identity",
            "weft-ops",
            "weft-shop",
        ],
    ),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(crate::root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// Names of everything below `package` through normal dependencies.
fn below(metadata: &Value, package: &str) -> BTreeSet<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |id: &Value| {
        packages
            .iter()
            .find(|package| package["id"] == *id)
            .and_then(|package| package["name"].as_str())
    };
    let is_normal = |dep: &&Value| {
        dep["dep_kinds"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
    };
    let start = packages
        .iter()
        .find(|candidate| candidate["name"] == package)
        .expect("the package");
    let mut open = vec![start["id"].clone()];
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        let node = nodes.iter().find(|node| node["id"] == id).expect("a node");
        for dep in node["deps"].as_array().into_iter().flatten().filter(is_normal) {
            if found.insert(name(&dep["pkg"]).expect("a name").to_owned()) {
                open.push(dep["pkg"].clone());
            }
        }
    }
    found
}

#[test]
fn the_proxy_core_stays_within_its_list() {
    let strangers: Vec<String> = below(&metadata(), "weft-proxy-core")
        .into_iter()
        .filter(|name| !PROXY_CORE.contains(&name.as_str()))
        .collect();
    assert_eq!(
        strangers,
        Vec::<String>::new(),
        "is it pure? then add it to the list, with care"
    );
}

/// Names of everything below `package` with the features that it asks for itself. In `cargo metadata` those of the whole
/// workspace are united: the client that a shell asks of `kube` would stand below whoever names the `kube` types.
fn alone(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}", "--package", package])
        .current_dir(crate::root())
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    names.map(ToOwned::to_owned).collect()
}

#[test]
fn nothing_impure_is_below_a_core() {
    for core in ["weft-proxy-core", "weft-control-plane-core", "weft-api"] {
        let below = alone(core);
        assert!(
            below.len() > 10,
            "{core} stands on {below:?} only: the search looks in the wrong place"
        );
        let impure: Vec<_> = IMPURE.iter().filter(|name| below.contains(**name)).collect();
        assert!(impure.is_empty(), "{core} reaches {impure:?}");
    }
}

#[test]
fn our_crates_depend_one_way() {
    let metadata = metadata();
    for (package, allowed) in DIRECTIONS {
        let declared = metadata["packages"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|candidate| candidate["name"] == package)
            .and_then(|found| found["dependencies"].as_array())
            .unwrap_or_else(|| panic!("{package} is not in the workspace"));
        for dependency in declared.iter().filter(|dependency| dependency["kind"].is_null()) {
            let name = dependency["name"].as_str().unwrap_or_default();
            let ours = name == "weft" || name.starts_with("weft-");
            assert!(
                !ours || allowed.contains(&name),
                "{package} may not depend on {name}"
            );
        }
    }
}
