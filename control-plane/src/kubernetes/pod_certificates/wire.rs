//! Requests as the API server has them, and what is answered. Only the fields that matter are read.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::Pod as KubePod;
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Value, json};
use weft_api::kubernetes::Time;
use weft_control_plane_core::issue::{LeafSpec, UnixTime};
use weft_control_plane_core::pod_certificate::{Denial, Pod, Request, SPAN_MIN, begin_refresh};
use weft_identity::bundle::certificates_to_pem;

/// What is understood in both versions of such requests.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    signer_name: String,
    pod_name: String,
    #[serde(rename = "podUID")]
    pod_uid: String,
    service_account_name: String,
    node_name: String,
    max_expiration_seconds: Option<u64>,
    #[serde(default, rename = "stubPKCS10Request")]
    request: Option<String>,
    #[serde(default)]
    unverified_user_annotations: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Option<Vec<Value>>,
}

/// A certificate, and what it says.
pub(super) struct Issued {
    pub(super) leaf: LeafSpec,
    pub(super) chain: Vec<CertificateDer<'static>>,
}

/// Reads a request.
pub(super) fn request(object: &DynamicObject) -> Result<Request, serde_json::Error> {
    let spec = Spec::deserialize(&object.data["spec"])?;
    let status = match &object.data["status"] {
        Value::Null => Status::default(),
        status => Status::deserialize(status)?,
    };
    let csr = BASE64_STANDARD.decode(spec.request.unwrap_or_default());
    Ok(Request {
        signer: spec.signer_name,
        namespace: object.metadata.namespace.as_deref().unwrap_or_default().into(),
        name: spec.pod_name.into(),
        pod: Pod {
            uid: spec.pod_uid.into(),
            account: spec.service_account_name.into(),
            node: spec.node_name.into(),
        },
        span_max: spec.max_expiration_seconds.map_or(SPAN_MIN, Duration::from_secs),
        annotations: spec
            .unverified_user_annotations
            .unwrap_or_default()
            .into_keys()
            .collect(),
        csr: csr.map_err(serde::de::Error::custom)?,
        // Each of the conditions that there are ends a request.
        answered: status.conditions.is_some_and(|conditions| !conditions.is_empty()),
    })
}

/// What a request is held against.
pub(super) fn pod(pod: KubePod) -> Pod {
    let spec = pod.spec.unwrap_or_default();
    let name = |text: Option<String>| text.unwrap_or_default().into();
    Pod {
        uid: name(pod.metadata.uid),
        account: name(spec.service_account_name),
        node: name(spec.node_name),
    }
}

/// The status of a request that is denied.
pub(super) fn denied(denial: &Denial, now: &Time) -> Value {
    json!({ "conditions": [condition("Denied", denial.reason(), &denial.to_string(), now)] })
}

/// The status of a request that is granted.
pub(super) fn issued(issued: &Issued, now: &Time) -> Value {
    let leaf = &issued.leaf;
    json!({
        "conditions": [condition("Issued", "Issued", &format!("for {}", leaf.account), now)],
        "certificateChain": certificates_to_pem(&issued.chain),
        "notBefore": moment(leaf.not_before),
        "notAfter": moment(leaf.not_after),
        "beginRefreshAt": moment(begin_refresh(leaf)),
    })
}

fn condition(kind: &str, reason: &str, message: &str, now: &Time) -> Value {
    json!({
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": now,
    })
}

/// A moment that a certificate has in it, too.
fn moment(time: UnixTime) -> Time {
    let seconds = i64::try_from(time.0).unwrap_or(i64::MAX);
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}
