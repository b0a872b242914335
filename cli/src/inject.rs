//! `weft inject` and `weft uninject`: puts sidecars into manifests, as the cluster's injector would, and takes them out.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;
use weft_api::yaml;
use weft_control_plane::kubernetes::webhook::inject::Injector;
use weft_control_plane::kubernetes::webhook::inject::workload::{
    Report, Verdict, inject_object, uninject_object,
};
use weft_control_plane::kubernetes::webhook::values;

use crate::cluster::{self, Access, SYSTEM};
use crate::output;

mod print;

/// The `ConfigMap` of the cluster's own values, and its key.
const CONFIG_MAP: (&str, &str) = ("weft-injection", "values.yaml");

/// Put sidecars into manifests, as the cluster's injector would: workloads of every kind, lists, several documents.
#[derive(Debug, Args)]
pub(crate) struct Inject {
    /// What to read; `-` is standard input.
    #[arg(short, long, value_name = "FILE|-")]
    filename: PathBuf,
    /// YAML file of injection values. Without it they are asked of the cluster that kubectl would talk to.
    #[arg(long, value_name = "FILE")]
    values: Option<PathBuf>,
    /// Namespace of objects that don't say theirs.
    #[arg(short, long, default_value = "default", value_name = "NS")]
    namespace: String,
    #[command(flatten)]
    cluster: Access,
    /// How the objects are printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// Take sidecars out of manifests: what `weft inject` was given comes back.
#[derive(Debug, Args)]
pub(crate) struct Uninject {
    /// What to read; `-` is standard input.
    #[arg(short, long, value_name = "FILE|-")]
    filename: PathBuf,
    /// How the objects are printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// `-o`, for objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// YAML documents.
    #[default]
    Yaml,
    /// JSON, one object after the other.
    Json,
}

/// Runs `weft inject`; fails when a pod is refused.
pub(crate) fn inject(told: &Inject) -> anyhow::Result<ExitCode> {
    let objects = read(&told.filename)?;
    let injector = match &told.values {
        Some(file) => values::load(file)?,
        None => cluster::block_on(of_cluster(&told.cluster))?,
    };
    let (objects, reports) = injected(&injector, &objects, &told.namespace);
    let mut refused = false;
    for report in &reports {
        refused |= matches!(report.verdict, Verdict::Refused(_));
        if let Some(line) = line(report) {
            eprintln!("{line}");
        }
    }
    if refused {
        return Ok(ExitCode::FAILURE);
    }
    output::print(&written(&objects, told.output)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `weft uninject`.
pub(crate) fn uninject(told: &Uninject) -> anyhow::Result<()> {
    let restored: Result<Vec<Value>, _> = read(&told.filename)?.iter().map(uninject_object).collect();
    let restored = restored.map_err(|(object, refusal)| anyhow::anyhow!("{object}: {refusal}"))?;
    output::print(&written(&restored, told.output)?)
}

fn injected(injector: &Injector, objects: &[Value], namespace: &str) -> (Vec<Value>, Vec<Report>) {
    let mut reports = Vec::new();
    let injected = objects.iter().map(|object| {
        let (object, mut of_object) = inject_object(injector, object, namespace);
        reports.append(&mut of_object);
        object
    });
    (injected.collect(), reports)
}

/// What to say about an object on standard error; most have nothing to say.
fn line(report: &Report) -> Option<String> {
    let object = &report.object;
    match &report.verdict {
        Verdict::Injected(warnings) if warnings.is_empty() => None,
        Verdict::Injected(warnings) => Some(format!("{object}: {}", warnings.join("; "))),
        Verdict::Unmeshed(reason) => Some(format!("{object} stays as it is: {reason}")),
        Verdict::NoPods => None,
        Verdict::Refused(refusal) => Some(format!("error: {object}: {refusal}")),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    let mut text = String::new();
    let limit = yaml::MAX_FILE_BYTES as u64 + 1;
    let unreadable = || format!("{} can't be read", path.display());
    if path == Path::new("-") {
        io::stdin().take(limit).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).with_context(unreadable)?;
        file.take(limit).read_to_string(&mut text)
    }
    .with_context(unreadable)?;
    match streamed(&text) {
        Some(objects) => Ok(objects),
        None => yaml::values(&text).with_context(unreadable),
    }
}

/// The objects of a text that is JSON, one after the other as `-o json` prints them: YAML has no such form.
fn streamed(text: &str) -> Option<Vec<Value>> {
    let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
    values
        .ok()
        .filter(|values| !values.is_empty() && values.iter().all(Value::is_object))
}

fn written(objects: &[Value], form: Form) -> anyhow::Result<String> {
    let mut text = String::new();
    for (number, object) in objects.iter().enumerate() {
        match form {
            Form::Json => {
                text.push_str(&serde_json::to_string_pretty(object)?);
                text.push('\n');
            }
            Form::Yaml => {
                if number > 0 {
                    text.push_str("---\n");
                }
                text.push_str(&print::yaml(object));
            }
        }
    }
    Ok(text)
}

/// The values that the cluster's own injector goes by.
async fn of_cluster(access: &Access) -> anyhow::Result<Injector> {
    let (name, key) = CONFIG_MAP;
    let advice = || {
        format!(
            "the cluster's injection values, ConfigMap {name} in {SYSTEM}, can't be had; name a file by --values"
        )
    };
    let client = cluster::reach(access).await.with_context(advice)?;
    let api: kube::Api<ConfigMap> = kube::Api::namespaced(client, SYSTEM);
    let map = cluster::answer(api.get(name)).await;
    let map = map.map_err(anyhow::Error::msg).with_context(advice)?;
    let text = map.data.as_ref().and_then(|data| data.get(key));
    let text = text.with_context(|| format!("ConfigMap {name} in {SYSTEM} has no {key}"))?;
    Ok(values::parse(Path::new(name), text)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_control_plane::kubernetes::webhook::inject::Values;

    use super::*;

    fn injector() -> Injector {
        Injector::new(Values::of_image("registry.test/weft:1")).unwrap()
    }

    /// Text that is no text to readers of YAML 1.1, which kubectl has: all of it has to be in quotes.
    const AMBIGUOUS: [&str; 16] = [
        "yes",
        "no",
        "on",
        "off",
        "y",
        "n",
        "Yes",
        "ON",
        "012",
        "0o17",
        "1_000",
        "1:30",
        "1e3",
        "0x1F",
        "~",
        "2026-01-01",
    ];

    #[test]
    fn what_is_printed_means_the_same_to_every_reader() {
        let object = json!({ "kind": "ConfigMap", "data": AMBIGUOUS });
        let text = written(std::slice::from_ref(&object), Form::Yaml).unwrap();
        assert_eq!(yaml::values(&text).unwrap(), [object]);
        for word in AMBIGUOUS.iter().filter(|word| **word != "2026-01-01") {
            assert!(!text.contains(&format!("- {word}\n")), "{word}: {text}");
        }
    }

    #[test]
    fn documents_lists_and_nulls_come_back() {
        let text = "kind: Service\nmetadata: {name: a}\n---\n---\nkind: List\nitems:\n- kind: Deployment\n  metadata: {name: \
                    b, creationTimestamp: null}\n  spec: {template: {metadata: null, spec: {containers: [{name: c}]}}}\n";
        let objects = yaml::values(text).unwrap();
        let (changed, reports) = injected(&injector(), &objects, "default");
        assert_eq!(reports.len(), 2);
        assert!(reports.iter().all(|report| line(report).is_none()), "{reports:?}");
        for form in [Form::Yaml, Form::Json] {
            let printed = written(&changed, form).unwrap();
            let again: Vec<Value> = match form {
                Form::Yaml => yaml::values(&printed).unwrap(),
                Form::Json => serde_json::Deserializer::from_str(&printed)
                    .into_iter()
                    .map(Result::unwrap)
                    .collect(),
            };
            assert_eq!(again, changed);
        }
        let restored: Vec<Value> = changed
            .iter()
            .map(|object| uninject_object(object).unwrap())
            .collect();
        assert_eq!(restored, objects);
    }

    #[test]
    fn what_stays_and_what_is_refused_is_told() {
        let pod = |annotations: Value, spec: Value| {
            let mut pod = json!({ "kind": "Pod", "metadata": { "name": "a", "annotations": annotations }, "spec": spec });
            pod["spec"]["containers"] = json!([{ "name": "c" }]);
            pod
        };
        let objects = [
            pod(json!({}), json!({ "hostNetwork": true })),
            pod(json!({ "weft.dev/drain-time": "bad" }), json!({})),
            pod(json!({ "weft.dev/typo": "" }), json!({})),
        ];
        let (_, reports) = injected(&injector(), &objects, "default");
        let lines: Vec<String> = reports.iter().filter_map(line).collect();
        assert!(
            lines[0].contains("pod/a stays as it is: the pod is not in the mesh"),
            "{lines:?}"
        );
        assert!(
            lines[1].contains("error: pod/a: annotation weft.dev/drain-time"),
            "{lines:?}"
        );
        assert!(lines[2].contains("weft.dev/typo means nothing"), "{lines:?}");
    }
}
