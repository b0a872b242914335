//! Values that are refused before anything is installed, each with the name of what is wrong.

use std::io::Write;

use weft_control_plane_core::inject::{Injector, Values};

use crate::helm::{charts, find, helm, objects, render};

/// A value, and what helm has to name.
const REFUSED: [(&str, &str); 46] = [
    ("nosuch=1", "nosuch"),
    ("image.nosuch=1", "nosuch"),
    ("image.repository=", "repository"),
    ("image.repository=UPPER", "repository"),
    ("image.digest=sha256:abc", "digest"),
    ("image.tag=a b", "tag"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("imagePullSecrets=name", "imagePullSecrets"),
    ("trustDomain=", "trustDomain"),
    ("trustDomain=Upper.example", "trustDomain"),
    ("trustDomain=a..b", "trustDomain"),
    ("clusterDomain=-a", "clusterDomain"),
    ("crds.enabled=maybe", "enabled"),
    ("crds=null", "crds"),
    ("identity.leafLifetime=1d", "leafLifetime"),
    (
        "identity.leafLifetime=59s999ms",
        "identity.leafLifetime is 59s999ms: it has to be from 60s to 168h",
    ),
    (
        "identity.leafLifetime=168h1ms",
        "identity.leafLifetime is 168h1ms",
    ),
    ("identity.suppliedRoot=yes", "suppliedRoot"),
    ("identity.podCertificates=yes", "podCertificates"),
    (
        "identity.podCertificates=true,identity.leafLifetime=59m",
        "identity.leafLifetime is 59m: it has to be from 1h to 168h",
    ),
    ("controlPlane.replicas=0", "replicas"),
    ("controlPlane.replicas=two", "replicas"),
    ("controlPlane.logLevel=a b", "logLevel"),
    ("controlPlane.topologySpread=Maybe", "topologySpread"),
    ("controlPlane.resources=1", "resources"),
    (
        "controlPlane.terminationGracePeriodSeconds=0",
        "terminationGracePeriodSeconds",
    ),
    (
        "controlPlane.autoscaling.targetCPUUtilization=101",
        "targetCPUUtilization",
    ),
    (
        "controlPlane.autoscaling.enabled=true,controlPlane.autoscaling.minReplicas=6",
        "minReplicas 6 is above maxReplicas 5",
    ),
    ("injector.timeoutSeconds=31", "timeoutSeconds"),
    ("injection.image=other", "image"),
    ("injection.egress=sometimes", "egress"),
    ("injection.drainTime=-1s", "drainTime"),
    (
        "injection.drainTime=1h1ms",
        "injection.drainTime is 1h1ms: it has to be at most 1h",
    ),
    ("injection.uid=0", "uid"),
    ("injection.meshCidrs={banana}", "meshCidrs"),
    ("injection.skipOutboundCidrs={10.0.0.0/8/8}", "skipOutboundCidrs"),
    ("injection.skipInboundPorts={mysql}", "skipInboundPorts"),
    ("injection.skipInboundPorts={0}", "skipInboundPorts"),
    ("injection.skipOutboundPorts={65536}", "skipOutboundPorts"),
    ("injection.skipOutboundPorts={1-2-3}", "skipOutboundPorts"),
    ("injection.resources.limits.memory=lots", "memory"),
    ("injection.resources.limits.memory=64MB", "memory"),
    ("injection.resources.requests.cpu=65", "cpu"),
    ("injection.resources.requests.cpu=a", "cpu"),
    ("monitoring.podMonitor.interval=often", "interval"),
    ("extraObjects=text", "extraObjects"),
];

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    for (value, name) in REFUSED {
        let refused = render("weft", &[&format!("--set={value}")]).expect_err(value);
        assert!(refused.contains(name), "{value}: {refused}");
    }
    let refused = render("weft-crds", &["--set=crds.nosuch=1"]).expect_err("an unknown value");
    assert!(refused.contains("nosuch"), "{refused}");
}

#[test]
fn values_that_make_sense_are_taken() {
    for value in [
        "image.repository=registry.example:5000/team/weft",
        "image.digest=sha256:0123456789012345678901234567890123456789012345678901234567890123",
        "imagePullSecrets={one,two}",
        "trustDomain=mesh.example",
        "identity.leafLifetime=1h30m",
        "controlPlane.logLevel=info\\,weft_control_plane=debug",
        "identity.leafLifetime=60s",
        "identity.leafLifetime=167h59m59s1000ms",
        "controlPlane.topologySpread=Disabled",
        "controlPlane.nodeSelector.disk=fast",
        "controlPlane.podAnnotations.a=b",
        "injection.egress=deny",
        "injection.meshCidrs={}",
        "injection.meshCidrs={10.0.0.0/8,fd00::/8,::ffff:10.0.0.0/104}",
        "injection.drainTime=1h",
        "injection.resources.limits.cpu=500m",
        "global.shared=1",
    ] {
        render("weft", &[&format!("--set={value}")]).unwrap();
    }
}

/// In a file numbers come without quotes, and YAML reads some words as truth values: what can be written there is meant.
#[test]
fn values_of_a_file_are_taken_as_they_are_written() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let values = "
controlPlane: {topologySpread: Disabled}
injection:
  skipInboundPorts: [3306, 9000-9010]
  skipOutboundPorts: [25]
  resources: {requests: {cpu: 0.5}, limits: {cpu: 2, memory: 128Mi}}
";
    file.write_all(values.as_bytes()).expect("writable");
    let objects = objects(&[&format!("--values={}", file.path().display())]);
    let pod = &find(&objects, "Deployment", "weft-control-plane")["spec"]["template"]["spec"];
    assert_eq!(pod.get("topologySpreadConstraints"), None);
    let read = find(&objects, "ConfigMap", "weft-injection")["data"]["values.yaml"].as_str();
    let read: Values = serde_yaml::from_str(read.expect("a text")).expect("the injector reads it");
    assert_eq!(read.skip_inbound_ports, ["3306", "9000-9010"]);
    assert_eq!(read.resources.limits.cpu.as_deref(), Some("2"));
    Injector::new(read).expect("the injector takes it");
}

#[test]
fn another_namespace_is_refused_with_the_remedy() {
    let weft = charts("weft");
    let refused = helm(&[
        "template",
        "weft",
        &weft,
        "--namespace=other",
        "--kube-version=v1.36.0",
    ]);
    let refused = refused.expect_err("identities have the namespace in them");
    assert!(refused.contains("add -n weft-system"), "{refused}");
}

#[test]
fn an_old_cluster_is_refused() {
    let weft = charts("weft");
    let render = |version: &str| helm(&["template", "weft", &weft, "--namespace=weft-system", version]);
    let refused = render("--kube-version=v1.32.9").expect_err("no native sidecars");
    assert!(refused.contains(">=1.33.0-0"), "{refused}");
    render("--kube-version=v1.33.1-gke.100").unwrap();
}
