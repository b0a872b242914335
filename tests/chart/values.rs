//! Values that are refused before anything is installed, each with the name of what is wrong.

use crate::helm::{charts, helm, render};

/// A value, and what helm has to name.
const REFUSED: [(&str, &str); 30] = [
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
    ("identity.suppliedRoot=yes", "suppliedRoot"),
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
    ("injector.timeoutSeconds=31", "timeoutSeconds"),
    ("injection.image=other", "image"),
    ("injection.egress=sometimes", "egress"),
    ("injection.drainTime=-1s", "drainTime"),
    ("injection.uid=0", "uid"),
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
        "controlPlane.topologySpread=Off",
        "controlPlane.nodeSelector.disk=fast",
        "controlPlane.podAnnotations.a=b",
        "injection.egress=deny",
        "injection.meshCidrs={}",
        "injection.resources.limits.cpu=500m",
        "global.shared=1",
    ] {
        render("weft", &[&format!("--set={value}")]).unwrap();
    }
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
