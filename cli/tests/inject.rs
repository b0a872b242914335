//! `weft inject` and `weft uninject` as a person uses them: from a file or from standard input, to the screen or into the
//! other.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use weft_api::yaml;

/// Pods of every shape that matters to injection, in every kind that makes pods.
const SHAPES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: probed, annotations: {weft.dev/opaque-ports: '3306', note: 'yes'}}
spec:
  terminationGracePeriodSeconds: 5
  initContainers:
    - {name: migrate, image: a}
    - {name: helper, image: a, restartPolicy: Always, startupProbe: {exec: {command: [x]}}}
  containers:
    - name: app
      image: a
      ports: [{name: web, containerPort: 8080}, {containerPort: 9090}]
      livenessProbe: {httpGet: {path: /live, port: web, httpHeaders: [{name: a, value: b}]}, timeoutSeconds: 3}
      readinessProbe: {tcpSocket: {port: 8080}}
      startupProbe: {grpc: {port: 9090, service: s}, failureThreshold: 60}
      lifecycle: {preStop: {httpGet: {path: /stop, port: 8080}}, postStart: {exec: {command: [y]}}}
    - {name: second, image: a, securityContext: {runAsUser: 1000}, volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec: {hostNetwork: true, containers: [{name: app, image: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: out, annotations: {weft.dev/inject: disabled}}
spec: {containers: [{name: app, image: a}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set}
spec:
  serviceName: set
  selector: {matchLabels: {app: set}}
  template: {metadata: {labels: {app: set}}, spec: {securityContext: {fsGroup: 7}, containers: [{name: app, image: a}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: '0 3 * * *'
  jobTemplate:
    spec: {template: {spec: {restartPolicy: Never, containers: [{name: app, image: a, args: ['on', '012', '1e3']}]}}}
---
apiVersion: v1
kind: List
items:
  - {apiVersion: apps/v1, kind: DaemonSet, metadata: {name: every}, spec: {template: {spec: {containers: [{name: app}]}}}}
  - {apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: bare}, spec: {template: {spec: {containers: [{name: app}]}}}}
  - {apiVersion: batch/v1, kind: Job, metadata: {name: once}, spec: {template: {spec: {containers: [{name: app}]}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: none-of-its-business}
data: {a: 'no', b: \"line\\nline\\n\"}
";

/// Pods among [`SHAPES`] that get a sidecar.
const INJECTED: usize = 6;

fn weft(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // What can't be used is refused unread: nobody may be there any more.
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writing.join().unwrap();
    output
}

/// What it prints on success.
fn printed(arguments: &[&str], input: &str) -> String {
    let output = weft(arguments, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn values_in(folder: &Path) -> PathBuf {
    let file = folder.join("values.yaml");
    std::fs::write(&file, "image: registry.test/weft:1\n").unwrap();
    file
}

/// The documents of a text, in either form.
fn documents(text: &str, form: &str) -> Vec<Value> {
    match form {
        "json" => serde_json::Deserializer::from_str(text)
            .into_iter()
            .map(Result::unwrap)
            .collect(),
        _ => yaml::values(text).unwrap(),
    }
}

#[test]
fn every_shape_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let values = values_in(folder.path());
    let values = values.to_str().unwrap();
    let shop = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/shop/kubernetes/workloads.yaml"
    );
    let shop = std::fs::read_to_string(shop).unwrap();
    for (input, injected) in [
        (SHAPES, INJECTED),
        (&shop, shop.matches("kind: Deployment").count()),
    ] {
        let given = yaml::values(input).unwrap();
        for form in ["yaml", "json"] {
            let inject = ["inject", "-f", "-", "--values", values, "-o", form];
            let meshed = printed(&inject, input);
            assert_eq!(meshed.matches("weft-init").count(), injected, "{form}: {meshed}");
            // What is injected already stays as it is.
            assert_eq!(printed(&inject, &meshed), meshed, "{form}");
            let back = printed(&["uninject", "-f", "-", "-o", form], &meshed);
            assert_eq!(documents(&back, form), given, "{form}");
        }
    }
}

#[test]
fn one_refusal_prints_nothing_that_could_be_applied() {
    let folder = tempfile::tempdir().unwrap();
    let values = values_in(folder.path());
    let inject = ["inject", "-f", "-", "--values", values.to_str().unwrap()];
    let bad = SHAPES.replace("weft.dev/opaque-ports: '3306'", "weft.dev/opaque-ports: mysql");
    let output = weft(&inject, &bad);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), output.stdout.len()),
        (Some(1), 0),
        "{said}"
    );
    assert!(
        said.contains("error: pod/probed: annotation weft.dev/opaque-ports"),
        "{said}"
    );
}

#[test]
fn what_cant_be_read_is_said_before_a_cluster_is_asked() {
    for (file, reason) in [("/nowhere.yaml", "No such file"), ("-", "not readable as YAML")] {
        let output = weft(&["inject", "-f", file], "a: [");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(1), 0),
            "{said}"
        );
        assert!(said.contains(reason) && !said.contains("cluster"), "{said}");
    }
}
