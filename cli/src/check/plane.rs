//! The control plane: its pods, who leads, its webhooks, and the certificates that everything rests on.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use x509_parser::pem::Pem;

use super::facts::{Facts, PROXY, Rehearsal, is_meshed, is_ready};
use super::report::{Category, Line, Lines};
use crate::cluster::{CONTROL_PLANE, SYSTEM};

/// A root that ends sooner is worth a word.
const ROOT_LIFE_MIN: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The names of the two webhooks.
const WEBHOOKS: [&str; 2] = ["namespaces.inject.weft.dev", "workloads.inject.weft.dev"];

const INSTALL: &str = "helm install weft charts/weft -n weft-system --create-namespace --wait";
const UPGRADE: &str =
    "helm upgrade weft charts/weft -n weft-system restores it (helm 4: with --force-conflicts)";

/// Whether it is there, ready, answers, and one of its replicas leads.
pub(super) fn control_plane(facts: &Facts, lines: &mut Vec<Line>) {
    let mut lines = Lines {
        category: Category::ControlPlane,
        lines,
    };
    if !facts.is_installed() {
        lines.fail(
            "installed",
            format!("there is no control plane in namespace {SYSTEM}"),
            INSTALL,
        );
        return;
    }
    match &facts.planes {
        Err(why) => {
            let remedy = format!("ask for the right to list pods in {SYSTEM}");
            lines.fail(
                "ready",
                format!("the control plane's pods can't be listed: {why}"),
                remedy,
            );
            return;
        }
        Ok(pods) => ready(facts, pods, &mut lines),
    }
    if facts.is_serving() {
        service(facts, &mut lines);
        answers(facts, &mut lines);
        leader(facts, &mut lines);
    }
}

fn ready(facts: &Facts, pods: &[Pod], lines: &mut Lines<'_>) {
    let deployment = facts.deployment.as_ref().ok().and_then(Option::as_ref);
    let wanted = deployment.and_then(|deployment| deployment.spec.as_ref()?.replicas);
    let wanted = wanted.map_or(1, |replicas| usize::try_from(replicas).unwrap_or(0));
    let here: Vec<&Pod> = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .collect();
    let ready = here.iter().filter(|pod| is_ready(pod)).count();
    let mut wrong: Vec<String> = here
        .iter()
        .filter(|pod| !is_ready(pod))
        .map(|pod| {
            format!(
                "{}: {}",
                pod.metadata.name.as_deref().unwrap_or_default(),
                why_not(pod)
            )
        })
        .collect();
    if here.len() < wanted {
        wrong.push(format!("{} of {wanted} pods are there", here.len()));
    }
    if wanted == 0 {
        wrong.push("its Deployment is scaled to 0".to_owned());
    }
    lines.each(
        "ready",
        wrong,
        format!("{ready}/{wanted} pods are ready"),
        format!("{ready}/{wanted} pods of the control plane are ready"),
        format!("kubectl describe deployment/{CONTROL_PLANE} -n {SYSTEM}; kubectl logs deployment/{CONTROL_PLANE} -n {SYSTEM}"),
    );
}

/// Why a pod isn't ready, as its containers and conditions say.
pub(super) fn why_not(pod: &Pod) -> String {
    let Some(status) = &pod.status else {
        return "nothing is known of it yet".to_owned();
    };
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    let waiting = containers.filter_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let message = waiting
            .message
            .as_deref()
            .map_or_else(String::new, |text| format!(" ({text})"));
        let usual = matches!(reason, "PodInitializing" | "ContainerCreating");
        (!usual).then(|| format!("container {} {reason}{message}", container.name))
    });
    if let Some(first) = waiting.into_iter().next() {
        return first;
    }
    let mut conditions = status.conditions.iter().flatten();
    let unready = conditions.find(|condition| condition.status == "False" && condition.message.is_some());
    unready
        .and_then(|condition| condition.message.clone())
        .unwrap_or_else(|| format!("phase {}", status.phase.as_deref().unwrap_or("unknown")))
}

/// The status of a container, of those that run before or beside the application's.
pub(super) fn init_status<'p>(pod: &'p Pod, name: &str) -> Option<&'p ContainerStatus> {
    let mut containers = pod.status.as_ref()?.init_container_statuses.iter().flatten();
    containers.find(|container| container.name == name)
}

/// Whether sidecars and the API server find the way to it: connections that are open hide it when they don't.
fn service(facts: &Facts, lines: &mut Lines<'_>) {
    match &facts.endpoints {
        Ok(0) => lines.fail(
            "service",
            format!("the Service {CONTROL_PLANE} leads to none of its pods: no sidecar connects, and no pod is injected"),
            format!("kubectl get service,endpointslices -n {SYSTEM}; {UPGRADE}"),
        ),
        Ok(_) => lines.ok("service", format!("the Service {CONTROL_PLANE} leads to its pods")),
        Err(why) => lines.fail(
            "service",
            format!("the endpoints of the Service {CONTROL_PLANE} can't be read: {why}"),
            format!("ask for the right to list endpointslices in {SYSTEM}"),
        ),
    }
}

fn answers(facts: &Facts, lines: &mut Lines<'_>) {
    let silent = facts.replicas.iter().filter_map(|(pod, answer)| {
        let why = answer.as_ref().err()?;
        Some(format!("{pod}: {why}"))
    });
    lines.each(
        "answers",
        silent.collect(),
        "every replica says who its clients are",
        "the control plane doesn't say who its clients are",
        format!("you need the right to create pods/portforward in {SYSTEM}; its log says whether it is busy or stuck"),
    );
}

fn leader(facts: &Facts, lines: &mut Lines<'_>) {
    let lease = match &facts.lease {
        Ok(Some(lease)) => lease.spec.clone().unwrap_or_default(),
        Ok(None) => {
            let says = "no replica leads: nobody writes status, certificates or trust bundles";
            lines.fail("leader", says, UPGRADE);
            return;
        }
        Err(why) => {
            let says = format!("the Lease {SYSTEM}/{CONTROL_PLANE} can't be read: {why}");
            lines.fail(
                "leader",
                says,
                format!("ask for the right to read leases in {SYSTEM}"),
            );
            return;
        }
    };
    let life = SignedDuration::from_secs(i64::from(lease.lease_duration_seconds.unwrap_or_default()));
    let holder = lease.holder_identity.unwrap_or_default();
    let ends = lease.renew_time.map(|renewed| renewed.0 + life);
    if holder.is_empty() || ends.is_none_or(|ends| ends < facts.now) {
        let says = "no replica leads: the Lease has run out, and nobody writes status or trust bundles";
        let remedy = format!(
            "kubectl logs deployment/{CONTROL_PLANE} -n {SYSTEM} says why none renews it; check its rights on leases"
        );
        lines.fail("leader", says, remedy);
    } else {
        lines.ok("leader", format!("{holder} leads"));
    }
}

/// The webhooks: there, with a valid certificate, and reached by the API server.
pub(super) fn injection(facts: &Facts, lines: &mut Vec<Line>) {
    if !facts.is_installed() {
        return;
    }
    let mut lines = Lines {
        category: Category::Injection,
        lines,
    };
    let configuration = match &facts.webhooks {
        Ok(Some(configuration)) => configuration,
        Ok(None) => {
            let says = "MutatingWebhookConfiguration weft-injector is missing: no pod gets a sidecar";
            lines.fail("webhooks", says, UPGRADE);
            return;
        }
        Err(why) => {
            let says = format!("the webhooks can't be read: {why}");
            lines.fail(
                "webhooks",
                says,
                "ask for the right to read mutatingwebhookconfigurations",
            );
            return;
        }
    };
    let mut wrong = Vec::new();
    for name in WEBHOOKS {
        let webhooks = configuration.webhooks.iter().flatten();
        let Some(webhook) = webhooks.into_iter().find(|webhook| webhook.name == name) else {
            wrong.push(format!("{name} is missing"));
            continue;
        };
        if webhook.failure_policy.as_deref() == Some("Ignore") {
            wrong.push(format!(
                "{name} fails open: pods start without a sidecar while it can't be reached"
            ));
        }
        let ca = webhook
            .client_config
            .ca_bundle
            .as_ref()
            .map(|bytes| bytes.0.as_slice());
        match ca.map(ends) {
            None | Some(None) => wrong.push(format!("{name} has no CA certificate (caBundle)")),
            Some(Some(end)) if end < facts.now => {
                wrong.push(format!("{name}: its CA certificate ended {end}"));
            }
            Some(Some(_)) if ca.is_some_and(|ca| is_foreign(facts, ca)) => {
                wrong.push(format!(
                    "{name}: its CA certificate is none of the mesh's roots (caBundle)"
                ));
            }
            Some(Some(_)) => {}
        }
    }
    if !wrong.is_empty() && !facts.is_serving() {
        return;
    }
    let well = wrong.is_empty();
    lines.each(
        "webhooks",
        wrong,
        "both webhooks are there, and close on failure",
        "MutatingWebhookConfiguration weft-injector is not as it should be",
        format!("{UPGRADE}; the control plane puts the CA certificate in: its log says why it can't"),
    );
    if well && facts.is_serving() && !matches!(facts.endpoints, Ok(0)) {
        rehearsal(facts, &mut lines);
    }
}

fn rehearsal(facts: &Facts, lines: &mut Lines<'_>) {
    match &facts.rehearsal {
        None => {}
        Some(Rehearsal::Admitted(containers)) if containers.iter().any(|name| name == PROXY) => {
            lines.ok("rehearsal", "a pod that is created gets a sidecar (rehearsed)");
        }
        Some(Rehearsal::Admitted(_)) => lines.fail(
            "rehearsal",
            "a pod that is created gets no sidecar (rehearsed)",
            "another admission webhook or policy may take it out again: kubectl get mutatingwebhookconfigurations",
        ),
        Some(Rehearsal::Refused(why)) if why.contains("failed calling webhook") => lines.fail(
            "rehearsal",
            format!("the API server doesn't reach the webhook: {why}"),
            format!(
                "check that NetworkPolicies and firewalls let the API server reach port 15017 of the pods in {SYSTEM}"
            ),
        ),
        Some(Rehearsal::Refused(why)) => lines.warn(
            "rehearsal",
            format!("injection couldn't be rehearsed: {why}"),
            Vec::new(),
            "ask for the right to create pods, or look at a new pod",
        ),
    }
}

/// Whether none of the certificates that the webhooks are trusted by is a root of the mesh, as far as those are known.
fn is_foreign(facts: &Facts, ca: &[u8]) -> bool {
    let bundles = facts.bundles.iter().flatten();
    let roots = bundles.filter_map(|bundle| bundle.data.as_ref()?.get("ca.crt"));
    let roots: BTreeSet<Vec<u8>> = roots.flat_map(|pem| ders(pem.as_bytes())).collect();
    !roots.is_empty() && !ders(ca).iter().any(|certificate| roots.contains(certificate))
}

/// Certificates (PEM) as DER.
fn ders(pem: &[u8]) -> Vec<Vec<u8>> {
    Pem::iter_from_buffer(pem)
        .filter_map(|pem| Some(pem.ok()?.contents))
        .collect()
}

/// The roots: each meshed namespace has them, and none ends soon.
pub(super) fn certificates(facts: &Facts, lines: &mut Vec<Line>) {
    if !facts.is_serving() {
        return;
    }
    let mut lines = Lines {
        category: Category::Certificates,
        lines,
    };
    let bundles = match &facts.bundles {
        Ok(bundles) => bundles,
        Err(why) => {
            let says = format!("the trust bundles can't be read: {why}");
            lines.fail("trust-bundles", says, "ask for the right to list configmaps");
            return;
        }
    };
    let of = |namespace: &str| {
        let mut all = bundles.iter();
        let found = all.find(|bundle| bundle.metadata.namespace.as_deref() == Some(namespace))?;
        found.data.as_ref()?.get("ca.crt")
    };
    let meshed = facts
        .namespaces
        .iter()
        .flatten()
        .filter(|namespace| is_meshed(namespace));
    let names: Vec<&str> = meshed
        .filter_map(|namespace| namespace.metadata.name.as_deref())
        .collect();
    let without: Vec<String> = names
        .iter()
        .filter(|name| of(name).is_none())
        .map(|name| (*name).to_owned())
        .collect();
    lines.each(
        "trust-bundles",
        without,
        "every meshed namespace has the trust bundle",
        "namespaces without the ConfigMap weft-trust-bundle: their pods can't start",
        format!("kubectl logs deployment/{CONTROL_PLANE} -n {SYSTEM} says why it isn't written"),
    );
    let ends = names.iter().filter_map(|name| ends(of(name)?.as_bytes())).min();
    let Some(end) = ends else { return };
    let left = end.duration_since(facts.now);
    if left.is_negative() {
        let says = format!("a root has ended: {end}");
        lines.fail(
            "root",
            says,
            "weft ca rotate makes a new one; all proxies have to renew",
        );
    } else if left < ROOT_LIFE_MIN {
        let says = format!("a root ends in {} days: {end}", left.as_hours() / 24);
        lines.fail(
            "root",
            says,
            "weft ca rotate makes a new one and brings it to every proxy first",
        );
    } else {
        lines.ok("root", format!("the first root ends {end}"));
    }
}

/// When the first of some certificates (PEM) ends. `None`: there are none.
fn ends(pem: &[u8]) -> Option<Timestamp> {
    let ends = Pem::iter_from_buffer(pem).filter_map(|pem| {
        let pem = pem.ok()?;
        let certificate = pem.parse_x509().ok()?;
        Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
    });
    ends.min()
}
