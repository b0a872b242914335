//! Gathers the facts: every question to the API server and to processes is asked here, and each answer kept as it came.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join;
use futures_util::stream;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

use super::facts::{self, Answer, Facts, INJECT, Metrics, Rehearsal, Replica, Right, is_injected, is_meshed};
use crate::cluster::{self, CONTROL_PLANE, SYSTEM, answer, list};
use crate::demo::metrics::parse;
use crate::objects;
use crate::status::Clients;

/// Proxies whose metrics are read, of the pods that are looked at.
const METRICS_MAX: usize = 500;

/// Questions that are asked at once.
const AT_ONCE_MAX: usize = 16;

/// How long proxies have that were sent something just now.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// The name of the trust bundle in each namespace.
const TRUST_BUNDLE: &str = "weft-trust-bundle";

/// A verb, a group, a resource with its sub-resource, and a namespace where it isn't the whole cluster.
type Need = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Option<&'static str>,
);

/// What the control plane can't do without.
const NEEDS: [Need; 12] = [
    ("watch", "", "services", "", None),
    ("watch", "", "pods", "", None),
    ("watch", "", "namespaces", "", None),
    ("watch", "discovery.k8s.io", "endpointslices", "", None),
    ("watch", "gateway.networking.k8s.io", "httproutes", "", None),
    ("watch", "weft.dev", "trafficpolicies", "", None),
    ("patch", "gateway.networking.k8s.io", "httproutes", "status", None),
    ("patch", "weft.dev", "trafficpolicies", "status", None),
    ("create", "authentication.k8s.io", "tokenreviews", "", None),
    ("create", "", "configmaps", "", None),
    ("create", "coordination.k8s.io", "leases", "", Some(SYSTEM)),
    ("create", "", "secrets", "", Some(SYSTEM)),
];

/// What an installation takes.
const INSTALL_NEEDS: [Need; 6] = [
    ("create", "", "namespaces", "", None),
    (
        "create",
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "",
        None,
    ),
    ("create", "rbac.authorization.k8s.io", "clusterroles", "", None),
    (
        "create",
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        "",
        None,
    ),
    (
        "create",
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        "",
        None,
    ),
    ("create", "apps", "deployments", "", Some(SYSTEM)),
];

/// Everything there is to know, now. `pre`: only what matters before an installation.
pub(super) async fn gather(client: &Client, namespace: Option<&str>, pre: bool) -> Facts {
    let now = Timestamp::now();
    let mut facts = empty(now, namespace);
    facts.version = answer(client.apiserver_version()).await;
    if facts.version.is_err() {
        return facts;
    }
    facts.crds = list(
        &Api::<CustomResourceDefinition>::all(client.clone()),
        &ListParams::default(),
    )
    .await;
    if pre {
        facts.own_rights = own_rights(client).await;
        return facts;
    }
    installation(client, &mut facts).await;
    workloads(client, &mut facts).await;
    if facts.is_installed() {
        facts.rights = control_plane_rights(client).await;
        facts.objects = objects::read(client, namespace).await;
        facts.replicas = replicas(client, &facts).await;
        facts.rehearsal = Some(rehearse(client, &facts).await);
    }
    facts
}

fn empty(now: Timestamp, namespace: Option<&str>) -> Facts {
    let unasked = || "nobody asked".to_owned();
    Facts {
        now,
        namespace: namespace.map(str::to_owned),
        version: Err(unasked()),
        crds: Err(unasked()),
        own_rights: Err(unasked()),
        rights: Err(unasked()),
        deployment: Err(unasked()),
        planes: Err(unasked()),
        endpoints: Err(unasked()),
        webhooks: Err(unasked()),
        rehearsal: None,
        lease: Err(unasked()),
        bundles: Err(unasked()),
        namespaces: Err(unasked()),
        pods: Err(unasked()),
        services: Err(unasked()),
        objects: Err(unasked()),
        replicas: BTreeMap::new(),
        metrics: BTreeMap::new(),
    }
}

async fn installation(client: &Client, facts: &mut Facts) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM);
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM);
    facts.deployment = answer(deployments.get_opt(CONTROL_PLANE)).await;
    facts.planes = cluster::control_planes(client).await;
    facts.endpoints = endpoints(client).await;
    facts.webhooks = answer(webhooks.get_opt("weft-injector")).await;
    facts.lease = answer(leases.get_opt(CONTROL_PLANE)).await;
    let named = ListParams::default().fields(&format!("metadata.name={TRUST_BUNDLE}"));
    facts.bundles = list(&Api::<ConfigMap>::all(client.clone()), &named).await;
}

/// How many ready endpoints the control plane's Service has.
async fn endpoints(client: &Client) -> Answer<usize> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), SYSTEM);
    let of = ListParams::default().labels(&format!("kubernetes.io/service-name={CONTROL_PLANE}"));
    let slices = list(&slices, &of).await?;
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = |endpoint: &&Endpoint| {
        endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            != Some(false)
    };
    Ok(endpoints.filter(ready).count())
}

async fn workloads(client: &Client, facts: &mut Facts) {
    facts.namespaces = list(&Api::<Namespace>::all(client.clone()), &ListParams::default()).await;
    let pods: Api<Pod> = match &facts.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    facts.pods = list(&pods, &ListParams::default()).await;
    let services: Api<Service> = match &facts.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    facts.services = list(&services, &ListParams::default()).await;
    let injected = facts.running().filter(|pod| is_injected(pod)).take(METRICS_MAX);
    let asked = injected.map(|pod| {
        let name = facts::name(pod);
        async move {
            let answer = metrics(client, &name).await;
            (name, answer)
        }
    });
    let asked: Vec<_> = asked.collect();
    facts.metrics = stream::iter(asked).buffer_unordered(AT_ONCE_MAX).collect().await;
}

/// The metrics of a proxy, through the API server.
async fn metrics(client: &Client, name: &str) -> Answer<Metrics> {
    let (namespace, pod) = name.split_once('/').unwrap_or_default();
    let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}:15020/proxy/metrics");
    let request = http::Request::get(uri)
        .body(Vec::new())
        .map_err(|error| error.to_string())?;
    Ok(read_metrics(&answer(client.request_text(request)).await?))
}

fn read_metrics(text: &str) -> Metrics {
    let mut metrics = Metrics::default();
    for sample in parse(text) {
        match sample.name.as_str() {
            "weft_inbound_requests_total" | "weft_inbound_tcp_connections_total"
                if sample.label("tls") == "none"
                    && sample.label("result") != "failure"
                    && sample.count() > 0 =>
            {
                let port = sample.label("service").to_owned();
                *metrics.plaintext.entry(port).or_default() += sample.count();
            }
            "weft_inbound_refused_connections_total" if sample.label("why") == "plaintext" => {
                metrics.refused += sample.count();
            }
            "weft_certificate_expiry_seconds" => {
                let seconds = i64::try_from(sample.count()).unwrap_or(i64::MAX);
                metrics.certificate_ends = Timestamp::from_second(seconds).ok();
            }
            _ => {}
        }
    }
    metrics
}

/// What each replica of the control plane says. One that isn't ready isn't asked.
async fn replicas(client: &Client, facts: &Facts) -> BTreeMap<String, Answer<Replica>> {
    let ready = facts.planes.iter().flatten().filter(|pod| facts::is_ready(pod));
    let names: Vec<String> = ready.filter_map(|pod| pod.metadata.name.clone()).collect();
    let mut replicas = BTreeMap::new();
    for name in &names {
        replicas.insert(name.clone(), replica(client, name).await);
    }
    let mut streams = replicas.values().flatten().flat_map(|replica| &replica.streams);
    if streams.any(|stream| stream.state == "STALE") {
        tokio::time::sleep(SETTLE_TIME).await;
        for name in &names {
            replicas.insert(name.clone(), replica(client, name).await);
        }
    }
    replicas
}

async fn replica(client: &Client, name: &str) -> Answer<Replica> {
    let clients = cluster::admin::<Clients>(client, SYSTEM, name, "/clients");
    let objects = cluster::admin(client, SYSTEM, name, "/objects");
    let (clients, objects) = join(clients, objects).await;
    Ok(Replica {
        streams: clients?.clients,
        objects: objects?,
    })
}

async fn own_rights(client: &Client) -> Answer<Vec<Right>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut rights = Vec::new();
    for need in INSTALL_NEEDS {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes(need)),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answered = answer(reviews.create(&PostParams::default(), &review)).await?;
        rights.push(right(need, answered.status.is_some_and(|status| status.allowed)));
    }
    Ok(rights)
}

async fn control_plane_rights(client: &Client) -> Answer<Vec<Right>> {
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let mut rights = Vec::new();
    for need in NEEDS {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{SYSTEM}:{CONTROL_PLANE}")),
                resource_attributes: Some(attributes(need)),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answered = answer(reviews.create(&PostParams::default(), &review)).await?;
        rights.push(right(need, answered.status.is_some_and(|status| status.allowed)));
    }
    Ok(rights)
}

fn attributes((verb, group, resource, part, namespace): Need) -> ResourceAttributes {
    ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: Some(part.to_owned()).filter(|part| !part.is_empty()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    }
}

fn right((verb, group, resource, part, namespace): Need, allowed: bool) -> Right {
    let group = if group.is_empty() {
        String::new()
    } else {
        format!(".{group}")
    };
    let part = if part.is_empty() {
        String::new()
    } else {
        format!("/{part}")
    };
    let within = namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
    Right {
        what: format!("{verb} {resource}{group}{part}{within}"),
        allowed,
    }
}

/// Creates a pod in rehearsal: all of admission runs, nothing is kept. In a namespace that is meshed, if there is one.
async fn rehearse(client: &Client, facts: &Facts) -> Rehearsal {
    let meshed = facts
        .namespaces
        .iter()
        .flatten()
        .find(|namespace| is_meshed(namespace));
    let namespace = meshed
        .and_then(|namespace| namespace.metadata.name.as_deref())
        .unwrap_or("default");
    let written = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "generateName": "weft-check-", "namespace": namespace, "annotations": { INJECT: "enabled" } },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{ "name": "check", "image": "weft.test/none", "ports": [{ "containerPort": 8080 }] }],
        },
    });
    let pod: Pod = match serde_json::from_value(written) {
        Ok(pod) => pod,
        Err(error) => return Rehearsal::Refused(error.to_string()),
    };
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match answer(pods.create(&params, &pod)).await {
        Ok(admitted) => {
            let containers = admitted
                .spec
                .and_then(|spec| spec.init_containers)
                .unwrap_or_default();
            Rehearsal::Admitted(containers.into_iter().map(|container| container.name).collect())
        }
        Err(why) => Rehearsal::Refused(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_is_counted_by_port() {
        let metrics = read_metrics(
            "# TYPE weft_inbound_requests_total counter\n\
             weft_inbound_requests_total{service=\"user:80\",protocol=\"http1\",tls=\"none\",result=\"success\"} 3\n\
             weft_inbound_requests_total{service=\"user:80\",protocol=\"http2\",tls=\"none\",result=\"failure\"} 1\n\
             weft_inbound_requests_total{service=\"user:80\",protocol=\"http1\",tls=\"mtls\",result=\"success\"} 9\n\
             weft_inbound_refused_connections_total{why=\"plaintext\"} 2\n\
             weft_certificate_expiry_seconds 1795000000\n",
        );
        assert_eq!(metrics.plaintext, BTreeMap::from([("user:80".to_owned(), 3)]));
        assert_eq!(metrics.refused, 2);
        assert_eq!(
            metrics.certificate_ends.map(Timestamp::as_second),
            Some(1_795_000_000)
        );
    }
}
