//! Services and their slices.

use std::net::IpAddr;

use weft_api::annotation;
use weft_api::kubernetes::{
    Endpoint, EndpointSlice, IntOrString, Service as Object, ServicePort as ObjectPort,
};

use super::{Rejected, head, is_tcp, labels, port};
use crate::resource::Name;
use crate::translate::endpoints::dialable;
use crate::world::ObjectName;
use crate::world::service::{Service, ServicePort, TargetPort, declared_protocol};
use crate::world::slice::{Slice, SliceEndpoint, SlicePort};

/// Whether it only stands for a name outside the cluster.
pub(super) fn is_external(object: &Object) -> bool {
    let spec = object.spec.as_ref();
    spec.is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"))
}

/// A Service; `None`: an `ExternalName`, which is no destination of the mesh.
pub(super) fn service(object: &Object) -> Result<Option<Service>, Rejected> {
    let (name, created) = head(&object.metadata)?;
    let spec = object
        .spec
        .as_ref()
        .ok_or_else(|| Rejected::new("spec", "is missing: a Service needs its ports"))?;
    if is_external(object) {
        return Ok(None);
    }
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, written) in spec.ports.iter().flatten().enumerate() {
        if is_tcp(written.protocol.as_deref()) {
            let found = service_port(&format!("spec.ports[{index}]"), written)?;
            if ports.iter().any(|port| port.port == found.port) {
                let why = format!(
                    "port {} is there already: give each port its own number",
                    found.port
                );
                return Err(Rejected::new(format!("spec.ports[{index}].port"), why));
            }
            ports.push(found);
        }
    }
    // "None" (headless) and "" are no addresses.
    let cluster_ips = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let families = spec.ip_families.iter().flatten();
    let first = families.map(String::as_str).next();
    Ok(Some(Service {
        name,
        created,
        cluster_ips: cluster_ips
            .filter_map(|ip| Some(ip.parse::<IpAddr>().ok()?.to_canonical()))
            .collect(),
        ports,
        ipv6_first: first == Some("IPv6"),
        selector: labels(spec.selector.as_ref()),
        prefer_zone: spec
            .traffic_distribution
            .as_deref()
            .is_some_and(|said| said.starts_with("Prefer")),
    }))
}

fn service_port(field: &str, written: &ObjectPort) -> Result<ServicePort, Rejected> {
    let number = port(&format!("{field}.port"), written.port)?;
    let target = match &written.target_port {
        None => TargetPort::Number(number),
        Some(IntOrString::Int(target)) => TargetPort::Number(port(&format!("{field}.targetPort"), *target)?),
        Some(IntOrString::String(target)) => TargetPort::Name(target.as_str().into()),
    };
    let name = written.name.as_deref().unwrap_or_default();
    let protocol = declared_protocol(written.app_protocol.as_deref(), name);
    Ok(ServicePort {
        name: name.into(),
        port: number,
        target,
        protocol,
    })
}

/// A slice; `None`: it belongs to no Service, or holds no addresses.
pub(super) fn slice(object: &EndpointSlice) -> Result<Option<Slice>, Rejected> {
    let (name, _) = head(&object.metadata)?;
    let service = object
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(annotation::SERVICE_NAME));
    let Some(service) = service.filter(|_| object.address_type != "FQDN") else {
        return Ok(None);
    };
    let service = ObjectName {
        namespace: name.namespace.clone(),
        name: service.as_str().into(),
    };
    let mut ports = Vec::new();
    for (index, written) in object.ports.iter().flatten().enumerate() {
        if is_tcp(written.protocol.as_deref()) {
            let number = written
                .port
                .map(|number| port(&format!("ports[{index}].port"), number))
                .transpose()?;
            ports.push(SlicePort {
                name: written.name.as_deref().unwrap_or_default().into(),
                port: number,
            });
        }
    }
    let mut endpoints = Vec::new();
    for (index, written) in object.endpoints.iter().flatten().enumerate() {
        endpoints.extend(endpoint(
            &name.namespace,
            &format!("endpoints[{index}]"),
            written,
        )?);
    }
    let account = object
        .metadata
        .annotations
        .as_ref()
        .and_then(|found| found.get(annotation::SERVICE_ACCOUNT));
    let account = account.map(|account| account.as_str().into());
    Ok(Some(Slice {
        name,
        service,
        ports,
        endpoints,
        account,
    }))
}

/// An endpoint; `None`: it doesn't serve.
fn endpoint(namespace: &Name, field: &str, written: &Endpoint) -> Result<Option<SliceEndpoint>, Rejected> {
    let field = format!("{field}.addresses");
    let address = written
        .addresses
        .first()
        .ok_or_else(|| Rejected::new(&field, "is empty: name an address"))?;
    let parsed = address
        .parse::<IpAddr>()
        .ok()
        .map(|ip| ip.to_canonical())
        .filter(|ip| dialable(*ip));
    let address = parsed.ok_or_else(|| {
        Rejected::new(
            field,
            format!("{address:?} can't be dialled: write an IP address"),
        )
    })?;
    let conditions = written.conditions.clone().unwrap_or_default();
    let terminating = conditions.terminating.unwrap_or(false);
    let ready = conditions.ready.unwrap_or(true);
    if !conditions.serving.unwrap_or(ready) && !ready {
        return Ok(None);
    }
    let pod = written
        .target_ref
        .as_ref()
        .filter(|target| target.kind.as_deref() == Some("Pod"));
    let pod = pod.and_then(|target| target.name.as_deref());
    let zone = written.zone.as_deref().unwrap_or_default();
    Ok(Some(SliceEndpoint {
        address,
        ready: ready && !terminating,
        zone: zone.into(),
        hint: hint(written, zone).map(Into::into),
        pod: pod.map(|pod| ObjectName {
            namespace: namespace.clone(),
            name: pod.into(),
        }),
    }))
}

/// The zone whose callers an endpoint is for.
fn hint<'a>(written: &'a Endpoint, zone: &str) -> Option<&'a str> {
    let zones = written.hints.as_ref()?.for_zones.as_ref()?;
    let own = zones.iter().find(|hinted| hinted.name == zone);
    own.or(zones.first()).map(|hinted| hinted.name.as_str())
}
