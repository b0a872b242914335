//! The kubelet's probes and hooks, sent through the sidecar's status port.
//!
//! The kubelet has no certificate of the mesh, so under strict mutual TLS it would be refused. Its HTTP, TCP and gRPC
//! probes become HTTP probes of `/probe/<container>/<kind>` on the status port, and the sidecar runs the original
//! against the application. Hooks (`postStart`, `preStop`) that are HTTP requests go the same way. What runs in the
//! container (`exec`, `sleep`) stays, and so does what goes to a host of its own: that never reached the pod's port.

use serde_json::{Map, Value, json};

use super::record::Record;
use super::{Refusal, sidecar};

/// Bytes of all originals together: they are one environment variable, which Linux keeps below 128 KiB.
pub(super) const BYTES_MAX: usize = 64 * 1024;

/// What the kubelet runs from outside: where it stands in a container, and its name in paths.
const KINDS: [(&str, &str); 5] = [
    ("/livenessProbe", "liveness"),
    ("/readinessProbe", "readiness"),
    ("/startupProbe", "startup"),
    ("/lifecycle/postStart", "postStart"),
    ("/lifecycle/preStop", "preStop"),
];

/// The actions that go over the network.
const ACTIONS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// How long the sidecar gives a hook, in seconds. The kubelet sets hooks no time of their own: `preStop` ends with the
/// pod's grace period, and `postStart` may take as long as an application needs to begin.
const HOOK_SECS: u64 = 300;

/// How long the kubelet gives a probe that doesn't say, in seconds.
const TIMEOUT_SECS: u64 = 1;

/// What the API server puts into actions that don't say: member and value.
const DEFAULTS: [(&str, &str); 4] = [("path", "/"), ("scheme", "HTTP"), ("host", ""), ("service", "")];

/// The action that all others become.
const HTTP: &str = "httpGet";

/// Rewrites a pod's probes; returns the originals as the sidecar reads them.
pub(super) fn rewrite(
    pod: &mut Value,
    record: &mut Record,
    warnings: &mut Vec<String>,
) -> Result<String, Refusal> {
    let mut originals = Map::new();
    for container in containers(pod) {
        let name = name(container).to_owned();
        for (place, kind) in KINDS {
            match original(container, place) {
                None => {}
                Some(Err(port)) => warnings.push(format!(
                    "container {name}: its {kind} probe names the port {}, which the container doesn't have",
                    super::text::shown(&port)
                )),
                Some(Ok(original)) => {
                    let key = format!("{name}/{kind}");
                    if let Some(probe) = container.pointer_mut(place).and_then(Value::as_object_mut) {
                        record.probes.insert(key.clone(), replace(probe, &key));
                    }
                    originals.insert(key, original);
                }
            }
        }
    }
    // Kubelets expand `$(NAME)` in variables; JSON has another way to write the sign.
    let text = Value::Object(originals).to_string().replace('$', "\\u0024");
    if text.len() > BYTES_MAX {
        return Err(Refusal::Probes(text.len()));
    }
    Ok(text)
}

/// Puts the original actions back.
pub(super) fn restore(pod: &mut Value, record: &Record) {
    for container in containers(pod) {
        let name = name(container).to_owned();
        for (place, kind) in KINDS {
            let original = record.probes.get(&format!("{name}/{kind}"));
            let probe = container.pointer_mut(place).and_then(Value::as_object_mut);
            if let (Some(original), Some(probe)) = (original, probe) {
                probe.remove(HTTP);
                probe.extend(original.clone());
            }
        }
    }
}

/// All containers that may have probes.
fn containers(pod: &mut Value) -> impl Iterator<Item = &mut Value> {
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut);
    let lists = spec.into_iter().flatten();
    let lists = lists.filter(|(key, _)| ["containers", "initContainers"].contains(&key.as_str()));
    lists.filter_map(|(_, list)| list.as_array_mut()).flatten()
}

fn name(container: &Value) -> &str {
    container.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// What the sidecar is to run instead of the kubelet; `None`: nothing, the probe stays. The error is the name of a port
/// that the container doesn't have.
fn original(container: &Value, place: &str) -> Option<Result<Value, String>> {
    let probe = container.pointer(place)?.as_object()?;
    let mut set = probe.iter().filter(|(key, value)| {
        let key = key.as_str();
        (ACTIONS.contains(&key) || ["exec", "sleep"].contains(&key)) && !value.is_null()
    });
    // With two actions the API server refuses it.
    let (Some((key, action)), None) = (set.next(), set.next()) else {
        return None;
    };
    let mut action = action
        .as_object()
        .filter(|_| ACTIONS.contains(&key.as_str()))?
        .clone();
    if action
        .get("host")
        .and_then(Value::as_str)
        .is_some_and(|host| !host.is_empty())
    {
        return None;
    }
    let port = match port(container, action.get("port")?)? {
        Ok(port) => port,
        Err(name) => return Some(Err(name)),
    };
    action.insert("port".to_owned(), json!(port));
    // The API server has put defaults in before the webhook is asked, and nobody has in a manifest: without them both
    // get the same sidecar, which knows no difference between a default, null and absent.
    action.retain(|member, value| !value.is_null() && !is_default(member, value));
    let mut original = Map::from_iter([(key.clone(), Value::Object(action))]);
    let is_hook = place.starts_with("/lifecycle/");
    let timeout = is_hook.then(|| json!(HOOK_SECS));
    let timeout = timeout.or_else(|| probe.get("timeoutSeconds").cloned());
    if let Some(timeout) = timeout.filter(|timeout| !timeout.is_null() && *timeout != TIMEOUT_SECS) {
        original.insert("timeoutSeconds".to_owned(), timeout);
    }
    Some(Ok(Value::Object(original)))
}

fn is_default(member: &str, value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|value| DEFAULTS.contains(&(member, value)))
}

/// A port's number, as the kubelet finds it: by the name of one of the container's ports, else as a number.
fn port(container: &Value, port: &Value) -> Option<Result<u16, String>> {
    let number = |port: &Value| port.as_u64().and_then(|port| u16::try_from(port).ok());
    if let Some(port) = number(port) {
        return Some(Ok(port));
    }
    let name = port.as_str()?;
    let ports = container.get("ports").and_then(Value::as_array);
    let named = ports
        .into_iter()
        .flatten()
        .find(|port| port.get("name").and_then(Value::as_str) == Some(name));
    let named = named.and_then(|port| number(port.get("containerPort")?));
    Some(named.or_else(|| name.parse().ok()).ok_or_else(|| name.to_owned()))
}

/// Makes a probe one of the status port; returns the members that were replaced.
fn replace(probe: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    let mut replaced = Map::new();
    for action in ACTIONS {
        if let Some(value) = probe.remove(action) {
            replaced.insert(action.to_owned(), value);
        }
    }
    let path = format!("/probe/{key}");
    probe.insert(
        HTTP.to_owned(),
        json!({ "path": path, "port": sidecar::STATUS_PORT }),
    );
    replaced
}
