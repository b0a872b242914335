//! Objects of our kinds and routes, good and bad, judged by a real API server with strict field validation and by
//! `weft validate`: alike, but for what is listed with its reason.

mod table;

#[path = "../../../control-plane/api/src/validate/tests/grpc.rs"]
mod grpc;
#[path = "../../../control-plane/api/src/validate/tests/http.rs"]
mod http;
#[path = "../../../control-plane/api/src/validate/tests/policies.rs"]
mod policies;

use std::collections::BTreeSet;

use kube::Client;
use serde_json::Value;
use weft_api::validate::check_str;
use weft_tests::kube::Kubernetes;

/// What is written, and what `weft validate` says of it; the same tables as its own tests read.
type Case = (&'static str, &'static [&'static str]);

/// At least so many objects are judged.
const OBJECTS_MIN: usize = 150;

const PARENT: &str = "  parentRefs: [{group: \"\", kind: Service, name: user}]\n";
const TARGET: &str = "targetRefs: [{group: \"\", kind: Service, name: user}]\n";

fn indented(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    text.lines().flat_map(|line| [pad.as_str(), line, "\n"]).collect()
}

fn route(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec:\n{spec}"
    )
}

fn rule(kind: &str, rule: &str) -> String {
    let rule = indented(rule, 4);
    route(kind, &format!("{PARENT}  rules:\n  - {}", rule.trim_start()))
}

fn policy(kind: &str, spec: &str) -> String {
    let spec = indented(spec, 2);
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\nspec:\n{spec}"
    )
}

/// Every object, once.
fn objects() -> BTreeSet<String> {
    let written = |cases: &'static [Case]| cases.iter().map(|(text, _)| *text);
    let mut all = BTreeSet::new();
    all.extend(written(http::HTTP_RULES).map(|text| rule("HTTPRoute", text)));
    all.extend(written(http::HTTP_SPEC).map(|text| route("HTTPRoute", &indented(text, 2))));
    all.extend(written(grpc::GRPC_RULES).map(|text| rule("GRPCRoute", text)));
    all.extend(
        written(policies::TRAFFIC_POLICIES).map(|text| policy("TrafficPolicy", &format!("{TARGET}{text}"))),
    );
    all.extend(written(policies::TRAFFIC_POLICY_TARGETS).map(|text| policy("TrafficPolicy", text)));
    all.extend(written(policies::MESH_TLS_POLICIES).map(|text| policy("MeshTLSPolicy", text)));
    all.extend(table::HTTP_RULES.iter().map(|text| rule("HTTPRoute", text)));
    all.extend(
        table::HTTP_SPECS
            .iter()
            .map(|text| route("HTTPRoute", &indented(text, 2))),
    );
    all.extend(table::GRPC_RULES.iter().map(|text| rule("GRPCRoute", text)));
    all.extend(
        table::TRAFFIC_POLICIES
            .iter()
            .map(|text| policy("TrafficPolicy", &format!("{TARGET}{text}"))),
    );
    all.extend(
        table::MESH_TLS_POLICIES
            .iter()
            .map(|text| policy("MeshTLSPolicy", text)),
    );
    all
}

/// What the API server says of an object that is created in rehearsal.
async fn server(client: &Client, yaml: &str) -> Result<(), String> {
    let plural = ["HTTPRoute", "GRPCRoute", "TrafficPolicy", "MeshTLSPolicy"]
        .into_iter()
        .zip(["httproutes", "grpcroutes", "trafficpolicies", "meshtlspolicies"])
        .find_map(|(kind, plural)| yaml.contains(&format!("kind: {kind}\n")).then_some(plural))
        .expect("a known kind");
    let version = yaml
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("apiVersion: "));
    let version = version.expect("the version comes first");
    let uri = format!("/apis/{version}/namespaces/shop/{plural}?dryRun=All&fieldValidation=Strict");
    let request = http_types(uri, yaml);
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("the API server doesn't judge: {error}"),
    }
}

fn http_types(uri: String, yaml: &str) -> ::http::Request<Vec<u8>> {
    let request = ::http::Request::post(uri).header("content-type", "application/yaml");
    request.body(yaml.as_bytes().to_vec()).expect("a request")
}

/// What `weft validate` says.
fn ours(yaml: &str) -> Result<(), String> {
    let findings = check_str("f", yaml).findings;
    let errors: Vec<String> = findings
        .iter()
        .filter(|finding| finding.is_error())
        .map(ToString::to_string)
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.join("\n"))
    }
}

/// An API server with our kinds and the Gateway API's.
async fn prepared() -> Kubernetes {
    let kubernetes = Kubernetes::start();
    kubernetes.install_gateway_api().await;
    for crd in weft_api::crd::all() {
        let yaml = weft_api::yaml::to_string(&crd).expect("a CRD is YAML");
        kubernetes.apply(&yaml).await.expect("our CRDs are taken");
    }
    let wait = ["wait", "--for=condition=Established", "crd", "--all"];
    kubernetes.kubectl(&wait).await.expect("CRDs are served");
    let namespace = ["create", "namespace", "shop"];
    kubernetes.kubectl(&namespace).await.expect("a namespace");
    kubernetes
}

/// Whether all that `weft validate` says is what an API server can't know.
fn is_stricter(said: &str) -> bool {
    let known = |line: &str| table::STRICTER.iter().any(|(words, _)| line.contains(words));
    said.lines().all(known)
}

/// The messages of all rules (CEL) in a schema.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            let rules = members.get("x-kubernetes-validations").and_then(Value::as_array);
            let said = rules
                .into_iter()
                .flatten()
                .filter_map(|rule| rule["message"].as_str());
            found.extend(said.map(str::to_owned));
            members.values().for_each(|member| messages(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn a_real_api_server_judges_as_weft_validate_does() {
    let kubernetes = prepared().await;
    let client = kubernetes.client().await;
    let objects = objects();
    assert!(
        objects.len() >= OBJECTS_MIN,
        "{} objects are too few",
        objects.len()
    );
    let (mut good, mut different, mut said) = (0, Vec::new(), String::new());
    for yaml in &objects {
        let (theirs, ours) = (server(&client, yaml).await, ours(yaml));
        good += usize::from(theirs.is_ok() && ours.is_ok());
        let excused = theirs.is_ok() && ours.as_ref().is_err_and(|said| is_stricter(said));
        if theirs.is_ok() != ours.is_ok() && !excused {
            different.push(format!("{yaml}\nAPI server: {theirs:?}\nweft: {ours:?}\n"));
        }
        said.extend(theirs.err());
    }
    let (count, all) = (different.len(), objects.len());
    assert!(
        different.is_empty(),
        "{count} of {all}:\n{}",
        different.join("\n")
    );
    assert!(good >= OBJECTS_MIN / 3, "only {good} good objects");
    let mut rules = BTreeSet::new();
    for crd in weft_api::crd::all() {
        messages(&serde_json::to_value(&crd).expect("JSON"), &mut rules);
    }
    rules.retain(|message| !said.contains(message));
    assert!(rules.is_empty(), "the API server never said {rules:#?}");
}

/// Every field below a schema with its text, as `kubectl explain` names it.
fn fields(schema: &Value, path: &str, found: &mut Vec<(String, String)>) {
    let items = schema.get("items").unwrap_or(schema);
    for (name, member) in items["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let text = member["description"].as_str().unwrap_or_default();
        found.push((path.clone(), text.to_owned()));
        fields(member, &path, found);
    }
}

#[tokio::test]
async fn every_field_of_ours_is_explained() {
    let kubernetes = prepared().await;
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for crd in weft_api::crd::all() {
        let json = serde_json::to_value(&crd).expect("JSON");
        let plural = json["spec"]["names"]["plural"].as_str().expect("a plural");
        let schema = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut all = Vec::new();
        fields(schema, &format!("{plural}.spec"), &mut all);
        assert!(!all.is_empty());
        for (path, text) in all {
            let said = kubernetes
                .kubectl(&["explain", &path])
                .await
                .expect("the field is known");
            assert!(
                !text.is_empty() && one_line(&said).contains(&one_line(&text)),
                "{path}: {said}"
            );
        }
    }
}
