//! What the control plane may do, verb by verb. A line here is a right that its code uses: nothing is granted "in
//! case".

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helm::{EVERYTHING, find, objects};

/// `group/resource[name] verb`, in the whole cluster.
const CLUSTER: &str = "
    /namespaces get list watch
    /pods list watch
    /services list watch
    discovery.k8s.io/endpointslices list watch
    apiextensions.k8s.io/customresourcedefinitions list watch
    gateway.networking.k8s.io/grpcroutes get list watch
    gateway.networking.k8s.io/httproutes get list watch
    gateway.networking.k8s.io/grpcroutes/status patch
    gateway.networking.k8s.io/httproutes/status patch
    weft.dev/meshtlspolicies get list watch
    weft.dev/trafficpolicies get list watch
    weft.dev/meshtlspolicies/status patch
    weft.dev/trafficpolicies/status patch
    events.k8s.io/events create patch
    authentication.k8s.io/tokenreviews create
    /configmaps create
    /configmaps[weft-trust-bundle] list watch patch delete
    certificates.k8s.io/clustertrustbundles create
    certificates.k8s.io/clustertrustbundles[weft.dev:mesh:roots] get patch
    certificates.k8s.io/signers[weft.dev/mesh] attest
    admissionregistration.k8s.io/mutatingwebhookconfigurations[weft-injector] list watch patch
    rbac.authorization.k8s.io/clusterroles[weft-control-plane] get
";

/// What is added where pods may mount certificates.
const POD_CERTIFICATES: &str = "
    certificates.k8s.io/podcertificaterequests list watch
    certificates.k8s.io/podcertificaterequests/status patch
    certificates.k8s.io/signers[weft.dev/mesh] sign
";

/// The same in its own namespace.
const NAMESPACE: &str = "
    /secrets create
    /secrets[weft-ca] get list watch patch
    coordination.k8s.io/leases create
    coordination.k8s.io/leases[weft-control-plane] get patch
";

/// Every single right in a list of them.
fn listed(text: &str) -> BTreeSet<String> {
    let rights = |line: &str| {
        let mut words = line.split_whitespace();
        let what = words.next().unwrap_or_default().to_owned();
        words.map(|verb| format!("{what} {verb}")).collect::<Vec<_>>()
    };
    text.lines().flat_map(rights).collect()
}

/// Every single right that a role grants.
fn granted(role: &Value) -> BTreeSet<String> {
    let texts = |value: &Value| -> Vec<String> {
        let values = value.as_array().into_iter().flatten();
        values
            .map(|one| one.as_str().expect("a text").to_owned())
            .collect()
    };
    let mut found = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        let mut names: Vec<_> = texts(&rule["resourceNames"])
            .iter()
            .map(|name| format!("[{name}]"))
            .collect();
        if names.is_empty() {
            names.push(String::new());
        }
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for name in &names {
                    for verb in texts(&rule["verbs"]) {
                        let right = format!("{group}/{resource}{name} {verb}");
                        assert!(found.insert(right.clone()), "{right} is granted twice");
                    }
                }
            }
        }
    }
    found
}

#[test]
fn the_control_plane_may_do_exactly_this() {
    let objects = objects(&[]);
    assert_eq!(
        granted(find(&objects, "ClusterRole", "weft-control-plane")),
        listed(CLUSTER)
    );
    assert_eq!(
        granted(find(&objects, "Role", "weft-control-plane")),
        listed(NAMESPACE)
    );
}

#[test]
fn whoever_may_sign_for_pods_may_do_just_that_in_addition() {
    let objects = objects(&["--set=identity.podCertificates=true"]);
    let cluster = listed(CLUSTER)
        .into_iter()
        .chain(listed(POD_CERTIFICATES))
        .collect();
    assert_eq!(
        granted(find(&objects, "ClusterRole", "weft-control-plane")),
        cluster
    );
    assert_eq!(
        granted(find(&objects, "Role", "weft-control-plane")),
        listed(NAMESPACE)
    );
}

#[test]
fn no_secret_outside_its_namespace_and_no_wildcard() {
    for object in objects(&EVERYTHING) {
        if !matches!(object["kind"].as_str(), Some("ClusterRole" | "Role")) {
            continue;
        }
        for right in granted(&object) {
            assert!(!right.contains('*'), "{right}");
            assert!(
                object["kind"] == "Role" || !right.starts_with("/secrets"),
                "{right}"
            );
        }
    }
}

#[test]
fn the_rights_are_the_control_planes_alone() {
    let objects = objects(&[]);
    let account =
        json!([{ "kind": "ServiceAccount", "name": "weft-control-plane", "namespace": "weft-system" }]);
    for (kind, role) in [("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")] {
        let binding = find(&objects, kind, "weft-control-plane");
        assert_eq!(binding["subjects"], account);
        assert_eq!(binding["roleRef"]["kind"], role);
        assert_eq!(binding["roleRef"]["name"], "weft-control-plane");
    }
    let account = find(&objects, "ServiceAccount", "weft-control-plane");
    assert_eq!(
        account["automountServiceAccountToken"], false,
        "only its own pod asks for it"
    );
}
