//! The mesh at work: proxies and what they hold, objects and whether they are in force, and callers without a sidecar.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use super::facts::{Facts, PROXY, is_injected, name, workload};
use super::plane::init_status;
use super::report::{Category, Line, Lines};
use crate::objects;
use crate::status::Stream;

/// Whether every proxy is connected and has what it should.
pub(super) fn proxies(facts: &Facts, lines: &mut Vec<Line>) {
    let answers: Vec<_> = facts
        .replicas
        .values()
        .filter_map(|answer| answer.as_ref().ok())
        .collect();
    if answers.is_empty() {
        return;
    }
    let mut lines = Lines {
        category: Category::Proxies,
        lines,
    };
    let streams: Vec<&Stream> = answers.iter().flat_map(|replica| &replica.streams).collect();
    if answers.len() == facts.replicas.len() {
        let connected: BTreeSet<&str> = streams.iter().map(|stream| stream.node.as_str()).collect();
        let away = facts.running().filter(|pod| has_started(pod)).map(name);
        lines.each(
            "connected",
            away.filter(|name| !connected.contains(name.as_str())).collect(),
            format!("every proxy is connected ({})", connected.len()),
            "proxies that are not connected: they serve by what they knew last",
            "kubectl logs POD -c weft-proxy -n NAMESPACE says why; a NetworkPolicy may keep them from weft-system:15010",
        );
    }
    let of = |state: &str| -> Vec<String> {
        let found = streams.iter().filter(|stream| stream.state == state);
        let found = found.filter(|stream| stream.is_of(facts.namespace.as_deref()));
        found
            .map(|stream| format!("{}: {}", stream.node, stream.detail()))
            .collect()
    };
    lines.each(
        "synced",
        of("STALE"),
        "every proxy has acknowledged what it was sent",
        "proxies that have not acknowledged what they were sent (STALE)",
        "weft status again in a minute; if it stays, the proxy may be out of CPU or stuck: kubectl logs POD -c weft-proxy",
    );
    lines.each(
        "accepted",
        of("NACK"),
        "no proxy has refused anything",
        "proxies that have refused something (NACK): for it they stay at the last good version",
        "undo the change of the object that it is built from; a proxy older than the control plane is renewed by \
         kubectl rollout restart",
    );
}

fn has_started(pod: &Pod) -> bool {
    is_injected(pod) && init_status(pod, PROXY).is_some_and(|status| status.started == Some(true))
}

/// Whether every object is in force.
pub(super) fn objects(facts: &Facts, lines: &mut Vec<Line>) {
    if !facts.is_serving() {
        return;
    }
    let mut lines = Lines {
        category: Category::Objects,
        lines,
    };
    let found = match &facts.objects {
        Ok(found) => found,
        Err(why) => {
            let says = format!("routes and policies can't be listed: {why}");
            lines.fail(
                "in-force",
                says,
                "ask for the right to list them; the chart's ClusterRole weft-policies-view has it",
            );
            return;
        }
    };
    let verdicts: Vec<_> = found.iter().flat_map(objects::verdicts).collect();
    let unseen = verdicts.iter().filter(|verdict| !verdict.is_observed());
    let unseen = unseen.map(|verdict| format!("{} on {}", verdict.object, verdict.ancestor));
    lines.each(
        "observed",
        unseen.collect(),
        "the control plane has looked at every route and policy",
        "objects that the control plane has not looked at, as they are now",
        "weft check again in a minute; if it stays, the control plane's log says why it can't write their status",
    );
    let mut wrong: Vec<String> = verdicts
        .iter()
        .filter(|verdict| verdict.status("Accepted") == "False" || verdict.status("ResolvedRefs") == "False")
        .flat_map(|verdict| {
            let about = format!("{} on {}", verdict.object, verdict.ancestor);
            verdict
                .wrong()
                .into_iter()
                .map(move |why| format!("{about}: {why}"))
        })
        .filter(|said| !said.contains("is not in force, see Accepted"))
        .collect();
    wrong.extend(refused(facts));
    lines.each(
        "in-force",
        wrong,
        format!("all are in force ({})", found.len()),
        "objects that are not in force as they are written",
        "mend what the reason names; weft status routes shows all",
    );
}

/// Objects of other kinds (Services above all) that the control plane refuses.
fn refused(facts: &Facts) -> BTreeSet<String> {
    let with_status = ["HTTPRoute", "GRPCRoute", "TrafficPolicy", "MeshTLSPolicy"];
    let replicas = facts.replicas.values().filter_map(|answer| answer.as_ref().ok());
    let judged = replicas.flat_map(|replica| &replica.objects.objects);
    let others = judged.filter(|judged| !with_status.iter().any(|kind| judged.object.starts_with(kind)));
    let here = others.filter(|judged| {
        let name = judged.object.split(' ').next_back().unwrap_or_default();
        facts
            .namespace
            .as_deref()
            .is_none_or(|namespace| name.split('/').next() == Some(namespace))
    });
    here.flat_map(|judged| {
        let wrong = judged
            .conditions
            .iter()
            .filter(|condition| condition["status"] == "False");
        wrong.map(move |condition| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {}: {}", judged.object, text("reason"), text("message"))
        })
    })
    .collect()
}

/// Callers without a sidecar, by workload and port, as far as their traffic was seen: whoever wants Strict has to know.
pub(super) fn clients(facts: &Facts, lines: &mut Vec<Line>) {
    let mut lines = Lines {
        category: Category::Clients,
        lines,
    };
    let mut seen: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut read = 0;
    for pod in facts.running() {
        let Some(Ok(metrics)) = facts.metrics.get(&name(pod)) else {
            continue;
        };
        read += 1;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let workload = format!("{} in namespace {namespace}", workload(pod));
        for (port, count) in &metrics.plaintext {
            let on = format!("in plaintext on {port}");
            *seen.entry((workload.clone(), on)).or_default() += count;
        }
        if metrics.refused > 0 {
            let refused = "refused as plaintext".to_owned();
            *seen.entry((workload.clone(), refused)).or_default() += metrics.refused;
        }
    }
    if read == 0 {
        return;
    }
    if seen.is_empty() {
        lines.ok(
            "plaintext",
            format!("no caller without a sidecar was seen by {read} proxies"),
        );
        return;
    }
    let items = seen
        .into_iter()
        .map(|((workload, how), count)| format!("{workload}: {count} {how}"));
    lines.warn(
        "plaintext",
        "callers without a sidecar were seen since the pods started",
        items.collect(),
        "mesh them before a MeshTLSPolicy says Strict; Strict refuses them",
    );
}
