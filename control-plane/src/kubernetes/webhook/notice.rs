//! Events for pods that stay out of the mesh although their author may have expected otherwise.
//!
//! They are sent beside the answers, one after the other and not too fast: whoever reaches the injector can make it
//! send one. What doesn't fit is dropped, for the same pod's controller comes again.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use super::super::FIELD_MANAGER;
use super::admission::Surprise;

/// Notices that wait to be sent.
const WAITING_MAX: usize = 32;

/// From one to the next.
const GAP: Duration = Duration::from_millis(200);

/// How long the API server may take for one.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes notices. Cheap to clone.
#[derive(Clone)]
pub struct Notices(mpsc::Sender<Surprise>);

impl Notices {
    /// Tells people, soon, unless too much is to be told.
    pub fn tell(&self, surprise: Surprise) {
        if self.0.try_send(surprise).is_err() {
            metrics::counter!("weft_control_plane_notices_dropped_total").increment(1);
        }
    }
}

/// Where notices go, and what sends them, for ever, as the control plane's pod of this name.
pub fn notices(client: kube::Client, pod: &Arc<str>) -> (Notices, impl Future<Output = ()> + use<>) {
    let (sender, mut waiting) = mpsc::channel::<Surprise>(WAITING_MAX);
    let reporter = Reporter {
        controller: FIELD_MANAGER.to_owned(),
        instance: Some(pod.to_string()),
    };
    let recorder = Recorder::new(client, reporter);
    let sending = async move {
        while let Some(surprise) = waiting.recv().await {
            send(&recorder, surprise).await;
            tokio::time::sleep(GAP).await;
        }
    };
    (Notices(sender), sending)
}

async fn send(recorder: &Recorder, surprise: Surprise) {
    let (api_version, kind, name, uid) = surprise.regarding;
    let regarding = ObjectReference {
        api_version: Some(api_version),
        kind: Some(kind),
        name: Some(name),
        namespace: Some(surprise.namespace),
        uid,
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: "NotMeshed".to_owned(),
        note: Some(surprise.reason.to_string()),
        action: "Injecting".to_owned(),
        secondary: None,
    };
    match tokio::time::timeout(SEND_TIMEOUT, recorder.publish(&event, &regarding)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "an event can't be written"),
        Err(_) => tracing::warn!("an event takes too long to be written"),
    }
}
