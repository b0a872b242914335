//! Below the mesh: the API server, the Gateway API, our CRDs, and rights.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::facts::{Answer, Facts, Right};
use super::report::{Category, Line, Lines};

/// The oldest Kubernetes: native sidecars, and what admission needs, are stable in it.
const KUBERNETES_MIN: (u32, u32) = (1, 33);

/// The Gateway API release that is proposed.
const GATEWAY_API: &str = "v1.7.0";

/// Its kinds that we read.
const ROUTES: [&str; 2] = [
    "httproutes.gateway.networking.k8s.io",
    "grpcroutes.gateway.networking.k8s.io",
];

/// Our kinds.
const OURS: [&str; 2] = ["meshtlspolicies.weft.dev", "trafficpolicies.weft.dev"];

/// Where the Gateway API says which release its CRDs are of.
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";

/// The API server. Without it nothing else can be told: `false`.
pub(super) fn kubernetes(facts: &Facts, lines: &mut Vec<Line>) -> bool {
    let mut lines = Lines {
        category: Category::Kubernetes,
        lines,
    };
    let info = match &facts.version {
        Ok(info) => info,
        Err(why) => {
            let remedy = "check --context, --kubeconfig and KUBECONFIG; `kubectl version` should answer";
            lines.fail(
                "api-server",
                format!("the API server doesn't answer: {why}"),
                remedy,
            );
            return false;
        }
    };
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().unwrap_or(0);
    let version = (number(&info.major), number(&info.minor));
    if version >= KUBERNETES_MIN {
        lines.ok(
            "api-server",
            format!("the API server answers: {}", info.git_version),
        );
    } else {
        let (major, minor) = KUBERNETES_MIN;
        let says = format!("Kubernetes {} is older than {major}.{minor}", info.git_version);
        lines.fail(
            "api-server",
            says,
            "upgrade the cluster; the mesh needs native sidecars as they are there",
        );
    }
    true
}

/// The Gateway API. An installation does without, but takes no routes; before one, it should be there (`pre`).
pub(super) fn gateway_api(facts: &Facts, pre: bool, lines: &mut Vec<Line>) {
    let mut lines = Lines {
        category: Category::GatewayApi,
        lines,
    };
    let Some(crds) = known(&facts.crds, &mut lines) else {
        return;
    };
    let missing: Vec<&str> = ROUTES
        .into_iter()
        .filter(|name| !crds.iter().any(|crd| is(crd, name) && serves(crd, "v1")))
        .collect();
    if missing.is_empty() {
        let versions = crds.iter().filter(|crd| ROUTES.iter().any(|name| is(crd, name)));
        let version = versions.filter_map(|crd| crd.metadata.annotations.as_ref()?.get(BUNDLE_VERSION));
        let version = version.min().map_or("of an unknown release", String::as_str);
        lines.ok(
            "gateway-api",
            format!("HTTPRoute and GRPCRoute are there: {version}"),
        );
        return;
    }
    let says = format!(
        "{} not served as v1: routes have no effect",
        missing.join(" and ")
    );
    let remedy = format!(
        "kubectl apply --server-side -f \
         https://github.com/kubernetes-sigs/gateway-api/releases/download/{GATEWAY_API}/standard-install.yaml"
    );
    if pre {
        lines.fail("gateway-api", says, remedy);
    } else {
        lines.warn("gateway-api", says, Vec::new(), remedy);
    }
}

/// Our CRDs.
pub(super) fn crds(facts: &Facts, lines: &mut Vec<Line>) {
    let mut lines = Lines {
        category: Category::Crds,
        lines,
    };
    let Ok(crds) = &facts.crds else { return };
    let mut wrong = Vec::new();
    for name in OURS {
        match crds.iter().find(|crd| is(crd, name)) {
            None => wrong.push(format!("{name} is missing")),
            Some(crd) if !serves(crd, "v1alpha1") => wrong.push(format!("{name} doesn't serve v1alpha1")),
            Some(crd) if !is_established(crd) => wrong.push(format!("{name} is not established")),
            Some(_) => {}
        }
    }
    lines.each(
        "crds",
        wrong,
        "TrafficPolicy and MeshTLSPolicy are there: v1alpha1",
        "our CRDs are not as they should be",
        "helm upgrade weft charts/weft -n weft-system --set crds.enabled=true (helm 4: with --force-conflicts), or \
         install charts/weft-crds",
    );
}

/// What whoever asks may do, before an installation.
pub(super) fn own_rights(facts: &Facts, lines: &mut Vec<Line>) {
    rights(
        &facts.own_rights,
        "install-rights",
        "you may install the mesh",
        "you may not do what an installation takes",
        "ask for the ClusterRole cluster-admin, for as long as the installation takes",
        lines,
    );
}

/// What the control plane's account may do.
pub(super) fn control_plane_rights(facts: &Facts, lines: &mut Vec<Line>) {
    if facts.is_installed() {
        rights(
            &facts.rights,
            "control-plane-rights",
            "the control plane may do what it has to",
            "the account weft-system/weft-control-plane may not do what it has to",
            "helm upgrade weft charts/weft -n weft-system (helm 4: with --force-conflicts) restores its ClusterRole and \
             bindings",
            lines,
        );
    }
}

fn rights(
    answer: &Answer<Vec<Right>>,
    check: &'static str,
    well: &str,
    wrong: &str,
    remedy: &str,
    lines: &mut Vec<Line>,
) {
    let mut lines = Lines {
        category: Category::Rights,
        lines,
    };
    match answer {
        Ok(rights) => {
            let denied = rights.iter().filter(|right| !right.allowed);
            let denied = denied.map(|right| right.what.clone()).collect();
            lines.each(check, denied, well, wrong, remedy);
        }
        Err(why) => lines.warn(
            check,
            format!("rights can't be told: {why}"),
            Vec::new(),
            "ask somebody who may create subjectaccessreviews",
        ),
    }
}

fn known<'f>(
    answer: &'f Answer<Vec<CustomResourceDefinition>>,
    lines: &mut Lines<'_>,
) -> Option<&'f [CustomResourceDefinition]> {
    match answer {
        Ok(crds) => Some(crds),
        Err(why) => {
            let says = format!("CRDs can't be listed: {why}");
            lines.fail(
                "crds-readable",
                says,
                "ask for the right to list customresourcedefinitions",
            );
            None
        }
    }
}

fn is(crd: &CustomResourceDefinition, name: &str) -> bool {
    crd.metadata.name.as_deref() == Some(name)
}

fn serves(crd: &CustomResourceDefinition, version: &str) -> bool {
    let mut versions = crd.spec.versions.iter();
    versions.any(|one| one.name == version && one.served)
}

fn is_established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut established = conditions
        .into_iter()
        .filter(|condition| condition.type_ == "Established");
    established.any(|condition| condition.status == "True")
}
