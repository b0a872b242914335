//! Namespaces and pods: who is meshed, who should be, and who is left behind.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::jiff::SignedDuration;

use super::facts::{
    Facts, INIT, INJECT, PROXY, is_injected, is_meshed, is_on_host, is_ready, name, workload,
};
use super::plane::{init_status, why_not};
use super::report::{Category, Line, Lines};
use crate::cluster::SYSTEM;

/// The label by which a namespace's Pod Security level is enforced.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// How long a pod may take to become ready before it is called stuck.
const START_TIME: SignedDuration = SignedDuration::from_secs(60);

/// What is written on namespaces.
pub(super) fn namespaces(facts: &Facts, lines: &mut Vec<Line>) {
    let mut lines = Lines {
        category: Category::Namespaces,
        lines,
    };
    let all = match &facts.namespaces {
        Ok(all) => all,
        Err(why) => {
            let says = format!("namespaces can't be listed: {why}");
            lines.fail("labels", says, "ask for the right to list namespaces");
            return;
        }
    };
    let meant: Vec<&Namespace> = all
        .iter()
        .filter(|namespace| facts.namespace.is_none() || namespace.metadata.name == facts.namespace)
        .collect();
    let wrong: Vec<String> = meant
        .iter()
        .filter_map(|namespace| mislabelled(namespace))
        .collect();
    let meshed = meant.iter().filter(|namespace| is_meshed(namespace)).count();
    lines.each(
        "labels",
        wrong,
        format!("{meshed} namespaces are meshed by label"),
        "namespaces that are not meshed as somebody meant them to be",
        format!("kubectl label namespace NAME {INJECT}=enabled (a namespace takes the label, a pod the annotation)"),
    );
    let denied: Vec<String> = meant
        .iter()
        .filter_map(|namespace| denies(facts, namespace))
        .collect();
    if facts.is_installed() || !denied.is_empty() {
        lines.each(
            "pod-security",
            denied,
            "no Pod Security level stands in the way of capture",
            "namespaces whose Pod Security level denies NET_ADMIN, which capture needs: their pods are refused",
            format!("kubectl label --overwrite namespace NAME {POD_SECURITY}=privileged"),
        );
    }
}

fn mislabelled(namespace: &Namespace) -> Option<String> {
    let name = namespace.metadata.name.as_deref()?;
    let label = namespace.metadata.labels.as_ref().and_then(|all| all.get(INJECT));
    let annotation = namespace
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(INJECT));
    match (label.map(String::as_str), annotation) {
        (Some("enabled" | "disabled"), _) | (None, None) => None,
        (Some(other), _) => Some(format!(
            "{name}: the label {INJECT}={other} is neither enabled nor disabled"
        )),
        (None, Some(_)) => Some(format!(
            "{name}: carries {INJECT} as an annotation instead of the label"
        )),
    }
}

/// A namespace whose Pod Security level denies pods that are to be injected.
fn denies(facts: &Facts, namespace: &Namespace) -> Option<String> {
    let name = namespace.metadata.name.as_deref()?;
    let level = namespace.metadata.labels.as_ref()?.get(POD_SECURITY)?;
    let of = |pod: &&Pod| pod.metadata.namespace.as_deref() == Some(name);
    let wanted = is_meshed(namespace) || facts.running().filter(of).any(|pod| facts.wants(pod));
    (wanted && matches!(level.as_str(), "baseline" | "restricted"))
        .then(|| format!("{name}: enforces {level}"))
}

/// What became of pods.
pub(super) fn pods(facts: &Facts, lines: &mut Vec<Line>) {
    let mut lines = Lines {
        category: Category::Workloads,
        lines,
    };
    if let Err(why) = &facts.pods {
        let says = format!("pods can't be listed: {why}");
        lines.fail("injected", says, "ask for the right to list pods");
        return;
    }
    if !facts.is_installed() {
        orphans(facts, &mut lines);
        return;
    }
    missing(facts, &mut lines);
    if facts.is_serving() {
        stuck(facts, &mut lines);
    }
    let on_host: Vec<String> = facts
        .running()
        .filter(|pod| facts.wants(pod) && is_on_host(pod))
        .map(name)
        .collect();
    if !on_host.is_empty() {
        lines.warn(
            "host-network",
            "pods on their node's network stay unmeshed",
            on_host,
            "nothing to do, unless they should be meshed: take hostNetwork out",
        );
    }
}

/// Pods with a sidecar that nobody looks after any longer.
fn orphans(facts: &Facts, lines: &mut Lines<'_>) {
    let orphans = facts.running().filter(|pod| is_injected(pod)).map(|pod| {
        let name = name(pod);
        let metrics = facts.metrics.get(&name).and_then(|answer| answer.as_ref().ok());
        match metrics.and_then(|metrics| metrics.certificate_ends) {
            Some(end) => format!("{name}: its certificate ends {end}"),
            None => format!("{name}: when its certificate ends can't be read"),
        }
    });
    lines.each(
        "orphans",
        orphans.collect(),
        "no pod has been left with a sidecar",
        "pods with a sidecar and no control plane: their traffic stops when their certificates end",
        "take the label off their namespaces and restart them (kubectl rollout restart), or install the control plane again",
    );
}

/// Pods that should have a sidecar and have none, by workload.
fn missing(facts: &Facts, lines: &mut Lines<'_>) {
    let missing = facts
        .running()
        .filter(|pod| facts.wants(pod) && !is_injected(pod) && !is_on_host(pod));
    let missing: BTreeSet<String> = missing
        .map(|pod| {
            format!(
                "{} in namespace {}",
                workload(pod),
                pod.metadata.namespace.as_deref().unwrap_or_default()
            )
        })
        .collect();
    let injected = facts.running().filter(|pod| is_injected(pod)).count();
    lines.each(
        "injected",
        missing.into_iter().collect(),
        format!("every pod that should have a sidecar has one ({injected})"),
        "pods that should have a sidecar and have none",
        "they ran before: kubectl rollout restart WORKLOAD -n NAMESPACE; pods that nobody made have to be made again",
    );
}

/// Pods whose sidecar doesn't get them going.
fn stuck(facts: &Facts, lines: &mut Lines<'_>) {
    let old = |pod: &&Pod| {
        let since = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        since.is_some_and(|since| facts.now.duration_since(since.0) > START_TIME)
    };
    let stuck = facts
        .running()
        .filter(|pod| is_injected(pod) && !is_ready(pod))
        .filter(old);
    let stuck = stuck.map(|pod| format!("{}: {}", name(pod), why_stuck(pod)));
    lines.each(
        "ready",
        stuck.collect(),
        "every pod with a sidecar is ready",
        "pods with a sidecar that are not ready",
        format!(
            "kubectl logs POD -c {PROXY} (or -c {INIT}) -n NAMESPACE; it names what it waits for in {SYSTEM}"
        ),
    );
}

fn why_stuck(pod: &Pod) -> String {
    let failed = init_status(pod, INIT).and_then(|status| {
        let state = status.state.as_ref()?;
        let code = state.terminated.as_ref()?.exit_code;
        (code != 0).then(|| format!("{INIT} ended with code {code}: capture couldn't be installed"))
    });
    let waiting = || {
        let status = init_status(pod, PROXY)?;
        let running = status.state.as_ref()?.running.is_some();
        (running && status.started != Some(true))
            .then(|| format!("{PROXY} waits for its certificate or configuration"))
    };
    failed.or_else(waiting).unwrap_or_else(|| why_not(pod))
}
