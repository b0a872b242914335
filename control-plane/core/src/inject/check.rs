//! What has to hold of a pod before it gets a sidecar.

use serde_json::Value;

use super::{INIT_CONTAINER, PROXY_CONTAINER, Refusal, sidecar};

/// A pod whose shape is one: the parts that injection reads and writes.
pub(super) struct Pod<'a> {
    security: Option<&'a Value>,
    containers: Vec<Container<'a>>,
    volumes: Vec<&'a Value>,
}

/// A container of any kind.
struct Container<'a> {
    name: &'a str,
    content: &'a Value,
}

impl<'a> Pod<'a> {
    /// Reads it.
    pub(super) fn read(pod: &'a Value) -> Result<Self, Refusal> {
        let spec = pod.get("spec").filter(|spec| spec.is_object());
        let spec = spec.ok_or_else(|| Refusal::Malformed("it has no spec".into()))?;
        let metadata = pod.get("metadata").unwrap_or(&Value::Null);
        let annotations = metadata.get("annotations").unwrap_or(&Value::Null);
        for (what, value) in [("metadata", metadata), ("metadata.annotations", annotations)] {
            if !value.is_object() && !value.is_null() {
                return Err(Refusal::Malformed(format!("{what} is no object")));
            }
        }
        let mut values = annotations
            .as_object()
            .into_iter()
            .flat_map(|members| members.values());
        if !values.all(Value::is_string) {
            return Err(Refusal::Malformed("an annotation's value is no text".into()));
        }
        let own = list(spec, "containers")?;
        if own.is_empty() {
            return Err(Refusal::Malformed("it has no containers".into()));
        }
        let mut containers: Vec<Container<'_>> = Vec::new();
        for content in list(spec, "initContainers")?.into_iter().chain(own) {
            let name = content.get("name").and_then(Value::as_str).unwrap_or_default();
            if name.is_empty() || containers.iter().any(|other| other.name == name) {
                let problem = format!("a container has no name, or that of another one: {name:?}");
                return Err(Refusal::Malformed(problem));
            }
            containers.push(Container { name, content });
        }
        Ok(Self {
            security: spec.get("securityContext"),
            containers,
            volumes: list(spec, "volumes")?,
        })
    }

    /// Refuses what a sidecar can't stand beside.
    pub(super) fn check(&self, uid: u32) -> Result<(), Refusal> {
        for volume in &self.volumes {
            let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
            if sidecar::VOLUMES.contains(&name) {
                return Err(reserved("volume", name));
            }
        }
        for container in &self.containers {
            if [INIT_CONTAINER, PROXY_CONTAINER].contains(&container.name) {
                return Err(reserved("container", container.name));
            }
            container.check(self.security, uid)?;
        }
        Ok(())
    }
}

impl Container<'_> {
    fn check(&self, of_pod: Option<&Value>, uid: u32) -> Result<(), Refusal> {
        let container = || self.name.to_owned();
        let user = |security: Option<&Value>| security?.get("runAsUser")?.as_u64();
        if user(self.content.get("securityContext")).or_else(|| user(of_pod)) == Some(u64::from(uid)) {
            return Err(Refusal::User {
                container: container(),
                uid,
            });
        }
        for mount in self.items("volumeMounts") {
            let volume = mount.get("name").and_then(Value::as_str).unwrap_or_default();
            if sidecar::VOLUMES.contains(&volume) {
                return Err(Refusal::Mount {
                    container: container(),
                    volume: volume.to_owned(),
                });
            }
        }
        for declared in self.items("ports") {
            let is_tcp = declared.get("protocol").and_then(Value::as_str).unwrap_or("TCP") == "TCP";
            let port = declared.get("containerPort").and_then(Value::as_u64);
            let port = port.and_then(|port| u16::try_from(port).ok());
            if let Some(port) = port.filter(|port| is_tcp && sidecar::PORTS.contains(port)) {
                return Err(Refusal::Port {
                    container: container(),
                    port,
                });
            }
        }
        Ok(())
    }

    fn items(&self, key: &str) -> impl Iterator<Item = &Value> {
        self.content
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    }
}

/// A list of objects in a pod's spec; what isn't there or `null` is empty.
fn list<'a>(spec: &'a Value, key: &str) -> Result<Vec<&'a Value>, Refusal> {
    let problem = || Refusal::Malformed(format!("spec.{key} is no list of objects"));
    match spec.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) if items.iter().all(Value::is_object) => Ok(items.iter().collect()),
        Some(_) => Err(problem()),
    }
}

fn reserved(what: &'static str, name: &str) -> Refusal {
    Refusal::Reserved {
        what,
        name: name.to_owned(),
    }
}
