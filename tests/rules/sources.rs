//! What the sources may look like. Long things have a reason in the lists below, or are split.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a function, at most.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a file, at most.
const FILE_LINES_MAX: usize = 600;

/// Longer files, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];
/// Longer functions (`file:name`), each with its reason.
const LONG_FUNCTIONS: [(&str, &str); 8] = [
    (
        "proxy/core/src/hygiene/tests.rs:refused_requests",
        "one table of heads, nothing else",
    ),
    (
        "tests/mesh/hostile/heads.rs:bad_heads",
        "one table of heads, nothing else",
    ),
    (
        "tests/mesh/hostile/http2.rs:heads_of_http2_that_break_a_rule_go_no_further",
        "a table of heads and its check",
    ),
    (
        "tests/mesh/hostile/manifests.rs:malformed_manifests_are_named_and_change_nothing",
        "a table of files and its check",
    ),
    (
        "tests/mesh/hostile/xds.rs:requests_that_go_too_far_end_their_stream",
        "a table of requests and its check",
    ),
    (
        "tests/mesh/hostile/xds.rs:a_mad_control_plane_is_contradicted_and_changes_nothing",
        "one story, told in its order",
    ),
    (
        "tests/mesh/refused.rs:a_server_that_is_not_whom_the_endpoint_names_is_sent_nothing",
        "one story for six servers",
    ),
    (
        "tests/mesh/rights.rs:a_workload_registers_for_itself_only",
        "one story, told in its order",
    ),
];

/// Never in a core: what reads a clock, a lock or the system's randomness.
const IMPURE: [&str; 7] = [
    "Instant::now",
    "SystemTime::now",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::fs",
    "std::net::TcpStream",
    "std::env",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn each_source(mut visit: impl FnMut(&str, &str)) {
    let root = crate::root();
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(
        files.len() > 50,
        "the search found {} files only: it looks in the wrong place",
        files.len()
    );
    for file in files {
        let text = fs::read_to_string(&file).expect("sources are UTF-8");
        let name = file
            .strip_prefix(&root)
            .expect("below the root")
            .display()
            .to_string();
        visit(&name, &text);
    }
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    each_source(|name, text| {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX && !LONG_FILES.iter().any(|(known, _)| *known == name) {
            long.push(format!("{name}: {lines}"));
        }
    });
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines: {long:#?}");
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    each_source(|name, text| {
        for (function, lines) in functions(text) {
            let key = format!("{name}:{function}");
            if lines > FUNCTION_LINES_MAX && !LONG_FUNCTIONS.iter().any(|(known, _)| *known == key) {
                long.push(format!("{key}: {lines}"));
            }
        }
    });
    assert!(long.is_empty(), "over {FUNCTION_LINES_MAX} lines: {long:#?}");
}

/// Names and lengths, told by rustfmt's indentation.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let indent = &line[..line.len() - body.len()];
        let is_function = [
            "fn ",
            "pub fn ",
            "async fn ",
            "pub async fn ",
            "const fn ",
            "pub const fn ",
        ]
        .iter()
        .any(|prefix| body.starts_with(prefix))
            || (body.starts_with("pub(") && body.contains(" fn "));
        if !is_function {
            continue;
        }
        let name = body.split("fn ").nth(1).unwrap_or_default();
        let name: String = name
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let close = format!("{indent}}}");
        let length = lines[start..]
            .iter()
            .position(|line| *line == close)
            .map_or(1, |length| length + 1);
        found.push((name, length));
    }
    found
}

#[test]
fn cores_read_no_clock_and_hold_no_lock() {
    let mut found = Vec::new();
    each_source(|name, text| {
        if !name.starts_with("proxy/core/src") && !name.starts_with("control-plane/core/src") {
            return;
        }
        for (number, line) in text.lines().enumerate() {
            if IMPURE.iter().any(|word| line.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    });
    assert!(found.is_empty(), "{found:#?}");
}

/// `unsafe` is for sockets, signals and process attributes: each place is named here.
#[test]
fn unsafe_stays_where_it_is_known() {
    let known = [
        "proxy/src/socket.rs",
        "cli/src/demo/processes.rs",
        "tests/src/process.rs",
        "tests/budget/allocator.rs",
    ];
    let mut found = Vec::new();
    each_source(|name, text| {
        let uses = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        if uses && !known.contains(&name) && name != "tests/rules/sources.rs" {
            found.push(name.to_owned());
        }
    });
    assert!(found.is_empty(), "unsafe in {found:?}");
}

#[test]
fn no_unfinished_marks() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let mut found = Vec::new();
    each_source(|name, text| {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{name}:{}", number + 1));
            }
        }
    });
    assert!(found.is_empty(), "{found:?}");
}
