//! Calls and answers as the API server writes and reads them: `AdmissionReview` of `admission.k8s.io/v1`. Only what
//! injection needs is read, so that a newer API server's calls are understood as well.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use weft_control_plane_core::inject::patch::patch;
use weft_control_plane_core::inject::{Injector, Namespace, Outcome, Refusal, Unmeshed};

/// The version of calls and answers.
const API_VERSION: &str = "admission.k8s.io/v1";

/// Characters of a warning that the API server passes on.
const WARNING_CHARS_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Request,
}

/// A pod that is to be made.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Of the call; the answer repeats it.
    uid: String,
    kind: Kind,
    operation: String,
    /// Where the pod is to be.
    #[serde(default)]
    pub namespace: String,
    /// Nothing will come of it.
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default)]
    object: Value,
}

#[derive(Debug, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    kind: String,
}

/// A pod that its author may have expected to be in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surprise {
    /// Where.
    pub namespace: String,
    /// What people will look at: the pod's controller, or the pod. As API version, kind, name and uid.
    pub regarding: (String, String, String, Option<String>),
    /// Why it isn't.
    pub reason: Unmeshed,
}

/// An answer.
#[derive(Debug)]
pub struct Decided {
    /// As the API server reads it.
    pub answer: Value,
    /// What people should be told.
    pub surprise: Option<Surprise>,
}

impl Request {
    /// Reads a call; the error says what is wrong with it.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let review: Review =
            serde_json::from_slice(body).map_err(|error| format!("this is no AdmissionReview: {error}"))?;
        if review.api_version != API_VERSION {
            return Err(format!("only {API_VERSION} is understood"));
        }
        Ok(review.request)
    }

    fn is_new_pod(&self) -> bool {
        self.kind.group.is_empty() && self.kind.kind == "Pod" && self.operation == "CREATE"
    }

    fn name(&self) -> &str {
        let text = |pointer| self.object.pointer(pointer).and_then(Value::as_str);
        text("/metadata/name")
            .or_else(|| text("/metadata/generateName"))
            .unwrap_or_default()
    }
}

/// Decides about a call.
pub fn decide(injector: &Injector, request: &Request, namespace: &Namespace) -> Decided {
    let mut decided = Decided {
        answer: Value::Null,
        surprise: None,
    };
    if !request.is_new_pod() {
        decided.answer = allowed(request, &[], &[]);
        return decided;
    }
    let (pod, of) = (request.name(), &namespace.name);
    let result = match injector.inject(&request.object, namespace) {
        Ok(Outcome::Injected(done)) => {
            tracing::debug!(namespace = of, pod, "injected");
            decided.answer = allowed(request, &patch(&request.object, &done.pod), &done.warnings);
            "injected"
        }
        Ok(Outcome::Unmeshed(reason)) => {
            tracing::debug!(namespace = of, pod, %reason, "not injected");
            let warnings: Vec<String> = reason
                .is_surprising()
                .then(|| reason.to_string())
                .into_iter()
                .collect();
            decided.answer = allowed(request, &[], &warnings);
            decided.surprise = surprise(request, reason);
            "unmeshed"
        }
        Err(refusal) => {
            tracing::info!(namespace = of, pod, %refusal, "pod refused");
            decided.answer = denied(request, &refusal);
            "refused"
        }
    };
    metrics::counter!("weft_control_plane_injections_total", "result" => result).increment(1);
    decided
}

fn allowed(request: &Request, operations: &[Value], warnings: &[String]) -> Value {
    let mut response = json!({ "uid": request.uid, "allowed": true });
    if !operations.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(json!(operations).to_string()));
    }
    if !warnings.is_empty() {
        let shortened = |warning: &String| warning.chars().take(WARNING_CHARS_MAX).collect::<String>();
        response["warnings"] = warnings.iter().map(shortened).collect();
    }
    review(&response)
}

fn denied(request: &Request, refusal: &Refusal) -> Value {
    review(&json!({
        "uid": request.uid,
        "allowed": false,
        "status": { "code": 403, "reason": "Forbidden", "message": refusal.to_string() },
    }))
}

fn review(response: &Value) -> Value {
    json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response })
}

/// Whom to tell it at: a pod that a controller makes has no name yet, but its controller has.
fn surprise(request: &Request, reason: Unmeshed) -> Option<Surprise> {
    let text = |object: &Value, key: &str| Some(object.get(key)?.as_str()?.to_owned());
    let owners = request.object.pointer("/metadata/ownerReferences");
    let owner = owners
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    let regarding = if let Some(owner) = owner {
        (
            text(owner, "apiVersion")?,
            text(owner, "kind")?,
            text(owner, "name")?,
            text(owner, "uid"),
        )
    } else {
        let name = text(request.object.get("metadata")?, "name")?;
        ("v1".to_owned(), "Pod".to_owned(), name, None)
    };
    reason.is_surprising().then(|| Surprise {
        namespace: request.namespace.clone(),
        regarding,
        reason,
    })
}

#[cfg(test)]
mod tests;
