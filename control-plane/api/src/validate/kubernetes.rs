//! Rules for Kubernetes' own kinds: what the mesh relies on, checked as the API server would; not all it checks.
//!
//! One difference on purpose: a cluster refuses endpoints on loopback, here they are taken, because without a
//! cluster everything may run on one machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::field::{Field, Problems, meant, one_of};
use super::metadata::check_name;
use super::name::{LABEL, PORT, SUBDOMAIN};
use crate::annotation::{SERVICE_ACCOUNT, SERVICE_NAME};

/// Most endpoints in one slice, as in Kubernetes.
const MAX_ENDPOINTS: usize = 1000;
/// Most addresses of one endpoint, and ports of one slice, as in Kubernetes.
const MAX_ADDRESSES: usize = 100;

/// A Service.
pub(super) fn service(object: &Field<'_>, problems: &mut Problems) {
    let Some(spec) = object.get("spec") else {
        return problems.error(&object.at.key("spec"), "is missing", "add a spec with ports");
    };
    word(
        &spec,
        "type",
        &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"],
        problems,
    );
    word(
        &spec,
        "trafficDistribution",
        &["PreferSameZone", "PreferSameNode", "PreferClose"],
        problems,
    );
    if spec.text("type") == Some("ExternalName") {
        problems.warning(
            &spec.at.key("type"),
            "the mesh doesn't serve ExternalName",
            "callers reach it past the mesh",
        );
        return;
    }
    cluster_ip(&spec, problems);
    let ports = spec.items("ports");
    if ports.is_empty() && spec.text("clusterIP") != Some("None") {
        problems.error(
            &spec.at.key("ports"),
            "a Service needs at least one port",
            "add a port",
        );
    }
    for port in &ports {
        service_port(port, ports.len(), problems);
    }
    distinct(
        &ports,
        "name",
        |port| port.text("name").map(str::to_owned),
        problems,
    );
    let number = |port: &Field<'_>| Some(format!("{} {}", port.number("port")?, protocol(port)));
    distinct(&ports, "port", number, problems);
}

fn cluster_ip(spec: &Field<'_>, problems: &mut Problems) {
    let all = spec.items("clusterIPs").into_iter().chain(spec.get("clusterIP"));
    for field in all {
        let Some(text) = field.value.as_str() else {
            continue;
        };
        if !["", "None"].contains(&text) && text.parse::<IpAddr>().is_err() {
            problems.error(
                &field.at,
                format!("{text:?} is no IP address"),
                "write an address, or None",
            );
        }
    }
}

fn service_port(port: &Field<'_>, of: usize, problems: &mut Problems) {
    port_number(port, "port", problems);
    word(port, "protocol", &["TCP", "UDP", "SCTP"], problems);
    match port.get("name") {
        Some(name) => check_name(&name, &LABEL, problems),
        None if of > 1 => {
            problems.error(
                &port.at.key("name"),
                "is missing",
                "name each port when there is more than one",
            );
        }
        None => {}
    }
    if ["UDP", "SCTP"].contains(&protocol(port)) {
        problems.warning(
            &port.at.key("protocol"),
            "the mesh carries TCP only",
            "callers reach this port past the mesh",
        );
    }
    if let Some(target) = port.get("targetPort") {
        if target.value.is_string() {
            check_name(&target, &PORT, problems);
        } else {
            port_number(port, "targetPort", problems);
        }
    }
}

/// An EndpointSlice.
pub(super) fn endpoint_slice(object: &Field<'_>, problems: &mut Problems) {
    word(object, "addressType", &["IPv4", "IPv6", "FQDN"], problems);
    let kind = object.text("addressType").unwrap_or_default();
    if kind == "FQDN" {
        problems.warning(
            &object.at.key("addressType"),
            "the mesh doesn't read names as addresses",
            "use IPv4 or IPv6",
        );
    }
    let endpoints = object.items("endpoints");
    at_most(
        &object.at.key("endpoints"),
        endpoints.len(),
        MAX_ENDPOINTS,
        problems,
    );
    for endpoint in &endpoints {
        let addresses = endpoint.items("addresses");
        if addresses.is_empty() {
            problems.error(
                &endpoint.at.key("addresses"),
                "an endpoint needs an address",
                "add one",
            );
        }
        at_most(
            &endpoint.at.key("addresses"),
            addresses.len(),
            MAX_ADDRESSES,
            problems,
        );
        for address in &addresses {
            check_address(address, kind, problems);
        }
    }
    slice_ports(object, problems);
    slice_names(object, problems);
}

fn slice_ports(object: &Field<'_>, problems: &mut Problems) {
    let ports = object.items("ports");
    at_most(&object.at.key("ports"), ports.len(), MAX_ADDRESSES, problems);
    for port in &ports {
        port_number(port, "port", problems);
        word(port, "protocol", &["TCP", "UDP", "SCTP"], problems);
        if let Some(name) = port.get("name").filter(|name| name.value != "") {
            check_name(&name, &LABEL, problems);
        }
        if port.get("port").is_none() {
            problems.warning(
                &port.at.key("port"),
                "an endpoint port without a number is taken for the Service port's own target",
                "add the number",
            );
        }
    }
    distinct(
        &ports,
        "name",
        |port| Some(port.text("name").unwrap_or_default().to_owned()),
        problems,
    );
}

fn slice_names(object: &Field<'_>, problems: &mut Problems) {
    if let Some(name) = object.find(["metadata", "labels", SERVICE_NAME]) {
        check_name(&name, &LABEL, problems);
    } else {
        let at = object.at.key("metadata").key("labels");
        let remedy = format!("add the label {SERVICE_NAME} with the Service's name");
        problems.warning(
            &at,
            "the slice belongs to no Service, so nobody is sent to its endpoints",
            remedy,
        );
    }
    if let Some(account) = object.find(["metadata", "annotations", SERVICE_ACCOUNT]) {
        check_name(&account, &SUBDOMAIN, problems);
    }
}

fn check_address(address: &Field<'_>, kind: &str, problems: &mut Problems) {
    let Some(text) = address.value.as_str() else {
        return;
    };
    let parsed = match kind {
        "IPv4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "IPv6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return,
    };
    match parsed {
        None => problems.error(
            &address.at,
            format!("{text:?} is no {kind} address"),
            "respell it or change addressType",
        ),
        Some(ip) if ip.is_unspecified() || ip.is_multicast() => {
            problems.error(
                &address.at,
                format!("{text} is no address that can be dialled"),
                "write one host's address",
            );
        }
        Some(_) => {}
    }
}

/// A Pod.
pub(super) fn pod(object: &Field<'_>, problems: &mut Problems) {
    if let Some(account) = object
        .find(["spec", "serviceAccountName"])
        .filter(|account| account.value != "")
    {
        check_name(&account, &SUBDOMAIN, problems);
    }
    let ips = object
        .get("status")
        .map(|status| status.items("podIPs"))
        .unwrap_or_default();
    let ips = ips.iter().filter_map(|entry| entry.get("ip"));
    for ip in ips.chain(object.find(["status", "podIP"])) {
        if ip
            .value
            .as_str()
            .is_some_and(|text| !text.is_empty() && text.parse::<IpAddr>().is_err())
        {
            problems.error(&ip.at, "is no IP address", "respell it");
        }
    }
}

fn protocol<'a>(port: &Field<'a>) -> &'a str {
    port.text("protocol").unwrap_or("TCP")
}

/// A member that must be one of some words, if it is there.
pub(super) fn word(field: &Field<'_>, key: &str, words: &[&str], problems: &mut Problems) {
    let Some(text) = field.text(key).filter(|text| !words.contains(text)) else {
        return;
    };
    let all = one_of(words.iter().copied());
    let remedy = meant(text, words.iter().copied());
    problems.error(&field.at.key(key), format!("{text:?} is none of {all}"), remedy);
}

/// A member that must be a port's number, if it is there.
pub(super) fn port_number(field: &Field<'_>, key: &str, problems: &mut Problems) {
    if let Some(number) = field.number(key).filter(|number| !(1..=65_535).contains(number)) {
        problems.error(
            &field.at.key(key),
            format!("{number} is no port"),
            "write a number from 1 to 65535",
        );
    }
}

fn at_most(at: &crate::pointer::Pointer, count: usize, max: usize, problems: &mut Problems) {
    if count > max {
        problems.error(
            at,
            format!("has {count} items; at most {max} are allowed"),
            "split the object in two",
        );
    }
}

/// Items that must differ in something; the second and further ones are said to be wrong.
pub(super) fn distinct(
    items: &[Field<'_>],
    key: &str,
    by: impl Fn(&Field<'_>) -> Option<String>,
    problems: &mut Problems,
) {
    let mut seen = BTreeMap::new();
    for item in items {
        let Some(value) = by(item) else { continue };
        if let Some(first) = seen.insert(value.clone(), item.at.clone()) {
            let what = if value.is_empty() {
                "an empty one".to_owned()
            } else {
                value
            };
            problems.error(
                &item.at.key(key),
                format!("{what} stands in {first} already"),
                "let them differ",
            );
        }
    }
}
