//! Which roots the API server trusts when it calls the injector: the mesh's own, in the `caBundle` of our webhook
//! configuration. Nothing else of it is ever written; it belongs to the chart.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::super::FIELD_MANAGER;
use super::super::leader::Leadership;
use crate::certificates::Issuing;

/// The webhook configuration, as the chart names it.
pub const CONFIGURATION: &str = "weft-injector";

/// What all our webhooks' names end in.
const OUR_WEBHOOKS: &str = ".inject.weft.dev";

/// How often it is looked at although nothing was heard: a write may have failed.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Writes the roots whenever they differ and this replica leads, for ever.
pub async fn keep(client: Client, issuing: Arc<Issuing>, leadership: Leadership) {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client);
    let only = watcher::Config::default().fields(&format!("metadata.name={CONFIGURATION}"));
    let seen = watcher(configurations.clone(), only)
        .default_backoff()
        .touched_objects();
    let mut seen = pin!(seen);
    let mut roots = issuing.changes();
    let mut leads = leadership.changes();
    let mut last = None;
    loop {
        tokio::select! {
            Some(next) = seen.next() => match next {
                Ok(configuration) => last = Some(configuration),
                Err(error) => tracing::debug!(%error, "the webhook configuration can't be watched now"),
            },
            // The senders outlive this task.
            _ = roots.changed() => {}
            _ = leads.changed() => {}
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
        let wanted = issuing.bundle().to_pem();
        if leadership.held()
            && let Some(patch) = last.as_ref().and_then(|found| missing(found, wanted.as_bytes()))
        {
            write(&configurations, &leadership, &patch).await;
        }
    }
}

async fn write(configurations: &Api<MutatingWebhookConfiguration>, leadership: &Leadership, patch: &Value) {
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Strategic(patch);
    match leadership
        .write(configurations.patch(CONFIGURATION, &params, &patch))
        .await
    {
        Ok(_) => tracing::info!("the API server is told which root the injector's certificate is from"),
        Err(error) if error.is_conflict() => tracing::debug!(%error, "the webhook configuration has changed"),
        Err(error) => tracing::warn!(
            %error,
            "the API server can't be told which root the injector's certificate is from; until then no pod is injected"
        ),
    }
}

/// The change that a configuration needs; a strategic one: webhooks are found by their names. It says which version it
/// replaces.
fn missing(configuration: &MutatingWebhookConfiguration, wanted: &[u8]) -> Option<Value> {
    let webhooks = configuration.webhooks.iter().flatten();
    let differing: Vec<Value> = webhooks
        .filter(|webhook| webhook.name.ends_with(OUR_WEBHOOKS))
        .filter(|webhook| webhook.client_config.ca_bundle.as_ref().is_none_or(|bundle| bundle.0 != wanted))
        .map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": ByteString(wanted.to_vec()) } }))
        .collect();
    let version = &configuration.metadata.resource_version;
    (!differing.is_empty())
        .then(|| json!({ "metadata": { "resourceVersion": version }, "webhooks": differing }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written_and_nothing_else() {
        let configuration = |bundle: Option<&str>| -> MutatingWebhookConfiguration {
            let webhook = |name: &str, bundle: Option<&str>| {
                json!({
                    "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "NoneOnDryRun",
                    "clientConfig": { "service": { "name": "a", "namespace": "b" }, "caBundle": bundle },
                })
            };
            let webhooks = [
                webhook("namespaces.inject.weft.dev", Some("cm9vdA==")),
                webhook("workloads.inject.weft.dev", bundle),
                webhook("other.dev", None),
            ];
            serde_json::from_value(json!({ "metadata": { "resourceVersion": "7" }, "webhooks": webhooks }))
                .unwrap()
        };
        assert_eq!(missing(&configuration(Some("cm9vdA==")), b"root"), None);
        let expected = json!({
            "metadata": { "resourceVersion": "7" },
            "webhooks": [{ "name": "workloads.inject.weft.dev", "clientConfig": { "caBundle": "cm9vdA==" } }],
        });
        assert_eq!(missing(&configuration(None), b"root"), Some(expected.clone()));
        assert_eq!(missing(&configuration(Some("b2xk")), b"root"), Some(expected));
    }
}
