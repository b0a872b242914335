//! The API server that the other tests stand on.

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::Api;
use weft_tests::kube::{Kubernetes, until, until_gone};

#[tokio::test]
async fn objects_are_applied_watched_and_refused_with_the_servers_words() {
    let kubernetes = Kubernetes::shared();
    let namespace = kubernetes.namespace("harness").await;
    let client = kubernetes.client().await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
    until(accounts, "default", "made by the controllers", |_| true).await;
    let config = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: it, namespace: {namespace}}}\ndata: {{key: value}}\n"
    );
    kubernetes.apply(&config).await.expect("a good object");
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    until(maps.clone(), "it", "applied", |map| map.data.is_some()).await;
    let refused = kubernetes
        .apply(&config.replace("\ndata:", "\ndada:"))
        .await
        .expect_err("an unknown field");
    assert!(refused.contains("field not declared in schema"), "{refused}");
    kubernetes
        .kubectl(&["delete", "namespace", &namespace, "--wait=false"])
        .await
        .expect("deleted");
    until_gone(maps, "it").await;
}

#[tokio::test]
async fn an_api_server_of_our_own_comes_back_on_the_same_port_with_its_objects() {
    let kubernetes = Kubernetes::start();
    kubernetes.install_gateway_api().await;
    kubernetes.kill_component("kube-apiserver").await;
    let routes = ["get", "httproutes.gateway.networking.k8s.io", "-A"];
    let refused = kubernetes.kubectl(&routes).await.expect_err("nobody serves");
    assert!(refused.contains("refused"), "{refused}");
    let _server = kubernetes.start_component("kube-apiserver");
    kubernetes.serves().await;
    kubernetes
        .kubectl(&routes)
        .await
        .expect("the kind is still known");
}
