//! What is installed: the objects, and what each is like.

use std::collections::BTreeSet;
use std::fs;

use clap::Parser;
use serde_json::{Value, json};
use weft_control_plane::config::{Args, Config};
use weft_control_plane_core::inject;

use crate::helm::{EVERYTHING, charts, find, helm, names, objects, read, render};

/// What every installation has.
const ALWAYS: [&str; 15] = [
    "ClusterRole/weft-control-plane",
    "ClusterRole/weft-policies-edit",
    "ClusterRole/weft-policies-view",
    "ClusterRoleBinding/weft-control-plane",
    "ConfigMap/weft-injection",
    "CustomResourceDefinition/meshtlspolicies.weft.dev",
    "CustomResourceDefinition/trafficpolicies.weft.dev",
    "Deployment/weft-control-plane",
    "MutatingWebhookConfiguration/weft-injector",
    "NetworkPolicy/weft-control-plane",
    "PodDisruptionBudget/weft-control-plane",
    "Role/weft-control-plane",
    "RoleBinding/weft-control-plane",
    "Service/weft-control-plane",
    "ServiceAccount/weft-control-plane",
];

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn helm_has_nothing_to_say_against_the_charts() {
    let ha = format!("--values={}", charts("weft/values-ha.yaml"));
    for settings in [&[][..], &[ha.as_str()], &EVERYTHING] {
        let weft = charts("weft");
        let lint = [&["lint", "--strict", &weft, "--namespace=weft-system"], settings].concat();
        helm(&lint).unwrap();
    }
    helm(&["lint", "--strict", &charts("weft-crds")]).unwrap();
}

#[test]
fn two_renders_are_the_same_bytes() {
    for settings in [&[][..], &EVERYTHING] {
        let first = render("weft", settings).unwrap();
        assert_eq!(first, render("weft", settings).unwrap());
    }
}

#[test]
fn nothing_is_asked_of_the_cluster_and_nothing_is_made_up() {
    for chart in ["weft", "weft-crds"] {
        let folder = charts(chart);
        let found = std::process::Command::new("grep")
            .args([
                "-rnE",
                "lookup|genCA|genSigned|genSelfSigned|rand[A-Z]|now |uuidv4|helm.sh/hook",
                &folder,
            ])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(found.stdout).unwrap(), "");
    }
}

#[test]
fn each_flag_has_its_objects() {
    assert_eq!(names(&objects(&[])), set(&ALWAYS));
    let adds = [
        (
            "monitoring.podMonitor.enabled",
            &["PodMonitor/weft-control-plane", "PodMonitor/weft-proxies"][..],
        ),
        ("monitoring.prometheusRule.enabled", &["PrometheusRule/weft"]),
        ("monitoring.dashboard.enabled", &["ConfigMap/weft-dashboard"]),
        (
            "controlPlane.autoscaling.enabled",
            &["HorizontalPodAutoscaler/weft-control-plane"],
        ),
    ];
    for (flag, expected) in adds {
        let found = names(&objects(&[&format!("--set={flag}=true")]));
        let added: BTreeSet<_> = found.difference(&set(&ALWAYS)).cloned().collect();
        assert_eq!(added, set(expected), "{flag}");
    }
    let takes = [
        (
            "crds.enabled",
            &[
                "CustomResourceDefinition/meshtlspolicies.weft.dev",
                "CustomResourceDefinition/trafficpolicies.weft.dev",
            ][..],
        ),
        (
            "controlPlane.podDisruptionBudget.enabled",
            &["PodDisruptionBudget/weft-control-plane"],
        ),
        (
            "controlPlane.networkPolicy.enabled",
            &["NetworkPolicy/weft-control-plane"],
        ),
    ];
    for (flag, expected) in takes {
        let found = names(&objects(&[&format!("--set={flag}=false")]));
        let missing: BTreeSet<_> = set(&ALWAYS).difference(&found).cloned().collect();
        assert_eq!(missing, set(expected), "{flag}");
    }
}

#[test]
fn the_image_goes_by_its_digest_and_else_by_a_tag() {
    let image = |settings: &[&str]| {
        let objects = objects(settings);
        let pod = &find(&objects, "Deployment", "weft-control-plane")["spec"]["template"]["spec"];
        let image = pod["containers"][0]["image"].as_str().unwrap().to_owned();
        assert_eq!(
            sidecars(&objects).image,
            image,
            "control plane and sidecars are of one image"
        );
        image
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(image(&[]), format!("ghcr.io/weft-mesh/weft:{version}"));
    assert_eq!(
        image(&[
            "--set=image.repository=registry.example:5000/weft",
            "--set=image.tag=next"
        ]),
        "registry.example:5000/weft:next"
    );
    let digest = format!("sha256:{}", "0".repeat(64));
    let by_digest = ["--set=image.tag=next", &format!("--set=image.digest={digest}")];
    assert_eq!(image(&by_digest), format!("ghcr.io/weft-mesh/weft@{digest}"));
}

/// The settings that the control plane reads from its `ConfigMap`.
fn sidecars(objects: &[Value]) -> inject::Values {
    let text = find(objects, "ConfigMap", "weft-injection")["data"]["values.yaml"].as_str();
    serde_yaml::from_str(text.expect("a text")).expect("the settings")
}

#[test]
fn sidecars_get_what_the_injector_has_by_default() {
    let found = sidecars(&objects(&[]));
    assert_eq!(found, inject::Values::of_image(&found.image));
    let changed = sidecars(&objects(&[
        "--set=trustDomain=mesh.example",
        "--set=image.pullPolicy=Always",
        "--set=injection.drainTime=5s",
        "--set=injection.skipInboundPorts={9000-9010}",
    ]));
    assert_eq!(changed.trust_domain, "mesh.example");
    assert_eq!(changed.image_pull_policy, inject::values::PullPolicy::Always);
    assert_eq!(changed.drain_time.to_string(), "5s");
    assert_eq!(changed.skip_inbound_ports, ["9000-9010"]);
}

#[derive(Parser)]
struct ControlPlane {
    #[command(flatten)]
    args: Args,
}

#[test]
fn the_control_plane_takes_the_flags_that_it_is_given() {
    for settings in [&[][..], &EVERYTHING] {
        let objects = objects(settings);
        let pod = &find(&objects, "Deployment", "weft-control-plane")["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let mut line = vec!["weft-control-plane".to_owned()];
        for argument in container["args"].as_array().unwrap() {
            let argument = argument
                .as_str()
                .unwrap()
                .replace("$(WEFT_NAMESPACE)", "weft-system");
            line.push(argument.replace("$(WEFT_POD)", "weft-control-plane-1"));
        }
        let args = ControlPlane::try_parse_from(&line)
            .map_err(|error| error.to_string())
            .unwrap()
            .args;
        Config::parse(&args).unwrap();
        let env: Vec<_> = container["env"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].clone())
            .collect();
        assert_eq!(env, ["WEFT_NAMESPACE", "WEFT_POD"]);
    }
}

#[test]
fn its_pod_keeps_to_the_restricted_standard() {
    let objects = objects(&[]);
    let pod = &find(&objects, "Deployment", "weft-control-plane")["spec"]["template"]["spec"];
    let security = &pod["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["runAsUser"], 2102);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    for field in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
        assert_eq!(pod.get(field), None, "{field}");
    }
    for container in pod["containers"].as_array().unwrap() {
        assert_eq!(
            container["securityContext"],
            json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            })
        );
        let ports = container["ports"].as_array().unwrap();
        assert!(ports.iter().all(|port| port.get("hostPort").is_none()));
    }
    for volume in pod["volumes"].as_array().unwrap() {
        assert!(
            volume.get("configMap").is_some() || volume.get("emptyDir").is_some(),
            "{volume}"
        );
    }
}

#[test]
fn everything_picks_the_same_pods() {
    let objects = objects(&[]);
    let deployment = find(&objects, "Deployment", "weft-control-plane");
    let selector = &deployment["spec"]["selector"]["matchLabels"];
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    for (key, value) in selector.as_object().unwrap() {
        assert_eq!(labels[key], *value);
    }
    let name = "weft-control-plane";
    assert_eq!(find(&objects, "Service", name)["spec"]["selector"], *selector);
    for (kind, field) in [
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ] {
        assert_eq!(
            find(&objects, kind, name)["spec"][field]["matchLabels"],
            *selector,
            "{kind}"
        );
    }
    let ports: BTreeSet<_> = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ports, set(&["status", "webhook", "xds"]));
}

#[test]
fn changed_sidecar_settings_roll_the_control_plane() {
    let checksum = |settings: &[&str]| {
        let objects = objects(settings);
        let template = &find(&objects, "Deployment", "weft-control-plane")["spec"]["template"];
        template["metadata"]["annotations"]["checksum/injection"].clone()
    };
    assert_ne!(checksum(&[]), checksum(&["--set=injection.logLevel=debug"]));
    assert_eq!(checksum(&[]), checksum(&["--set=controlPlane.replicas=2"]));
}

#[test]
fn both_webhooks_fail_closed_and_leave_the_system_alone() {
    let objects = objects(&[]);
    let webhooks = &find(&objects, "MutatingWebhookConfiguration", "weft-injector")["webhooks"];
    let names: Vec<_> = webhooks
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["namespaces.inject.weft.dev", "workloads.inject.weft.dev"]);
    for webhook in webhooks.as_array().unwrap() {
        assert_eq!(webhook["failurePolicy"], "Fail");
        assert_eq!(
            webhook["clientConfig"].get("caBundle"),
            None,
            "the control plane puts it in"
        );
        assert_eq!(webhook["clientConfig"]["service"]["path"], "/inject");
        assert_eq!(webhook["rules"][0]["operations"], json!(["CREATE"]));
        let elsewhere = json!({
            "key": "kubernetes.io/metadata.name",
            "operator": "NotIn",
            "values": ["kube-system", "weft-system"],
        });
        let expressions = webhook["namespaceSelector"]["matchExpressions"]
            .as_array()
            .unwrap();
        assert!(expressions.contains(&elsewhere), "{webhook:#}");
        assert_eq!(webhook["matchConditions"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn crds_are_kept_unless_told_otherwise_and_both_charts_have_the_same() {
    let crds = |chart: &str, settings: &[&str]| -> Vec<Value> {
        let mut objects = read(&render(chart, settings).unwrap());
        objects.retain(|object| object["kind"] == "CustomResourceDefinition");
        objects
    };
    let both = crds("weft", &[]);
    assert_eq!(both.len(), 2);
    assert_eq!(both, crds("weft-crds", &[]));
    for crd in &both {
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    for crd in crds("weft", &["--set=crds.keep=false"]) {
        assert_eq!(crd["metadata"].get("annotations"), None);
    }
    for crd in &both {
        let plural = crd["spec"]["names"]["plural"].as_str().unwrap();
        let file = |path: String| fs::read(charts(&path)).unwrap();
        assert_eq!(
            file(format!("weft/templates/crds/{plural}.yaml")),
            file(format!("weft-crds/templates/{plural}.yaml"))
        );
    }
}

#[test]
fn for_high_availability_there_are_three_on_three_nodes() {
    let objects = objects(&[&format!("--values={}", charts("weft/values-ha.yaml"))]);
    let spec = &find(&objects, "Deployment", "weft-control-plane")["spec"];
    assert_eq!(spec["replicas"], 3);
    let spread = &spec["template"]["spec"]["topologySpreadConstraints"][0];
    assert_eq!(spread["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(spread["whenUnsatisfiable"], "DoNotSchedule");
    assert_eq!(
        find(&objects, "PodDisruptionBudget", "weft-control-plane")["spec"]["maxUnavailable"],
        1
    );
}

#[test]
fn an_autoscaler_decides_alone_how_many_there_are() {
    let objects = objects(&["--set=controlPlane.autoscaling.enabled=true"]);
    assert_eq!(
        find(&objects, "Deployment", "weft-control-plane")["spec"].get("replicas"),
        None
    );
    let scaler = find(&objects, "HorizontalPodAutoscaler", "weft-control-plane");
    assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], "weft-control-plane");
}

#[test]
fn extra_objects_are_filled_in() {
    let extra = r#"--set-json=extraObjects=[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"{{ .Release.Name }}-mine"}}]"#;
    assert!(names(&objects(&[extra])).contains("ConfigMap/weft-mine"));
}
