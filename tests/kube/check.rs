//! `weft check` and `weft status` against a real API server, before and after there is something to see.

use serde_json::Value;
use weft_tests::kube::Kubernetes;
use weft_tests::process::weft_binary;

/// What `weft` prints, whether it succeeds or not.
async fn weft(kubernetes: &Kubernetes, arguments: &str) -> (bool, String) {
    let program = weft_binary().display().to_string();
    let script = format!("\"$0\" {arguments} 2>&1; echo \"exit $?\"");
    let said = kubernetes.tool("bash", &["-c", &script, &program], "").await;
    let said = said.expect("bash runs");
    let (text, code) = said.rsplit_once("exit ").expect("an exit code");
    (code.trim() == "0", text.to_owned())
}

/// The names of the checks that failed.
fn failed(json: &str) -> Vec<String> {
    let report: Value = serde_json::from_str(json).expect("JSON");
    let checks = report["checks"].as_array().expect("checks").iter();
    let failed = checks.filter(|check| check["outcome"] == "failed");
    failed
        .map(|check| check["check"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test]
async fn what_is_missing_is_named_until_it_is_there() {
    let kubernetes = Kubernetes::start();
    let (fine, said) = weft(&kubernetes, "check --pre").await;
    assert!(
        !fine && said.contains("remedy: kubectl apply --server-side -f https://"),
        "{said}"
    );
    kubernetes.install_gateway_api().await;
    let (fine, said) = weft(&kubernetes, "check --pre").await;
    assert!(
        fine && said.contains("HTTPRoute and GRPCRoute are there: v1.7.0"),
        "{said}"
    );

    let (fine, said) = weft(&kubernetes, "check -o json").await;
    assert_eq!(
        (fine, failed(&said)),
        (false, vec!["installed".to_owned()]),
        "{said}"
    );
    let label = ["label", "namespace", "default", "weft.dev/inject=true"];
    kubernetes.kubectl(&label).await.expect("labelled");
    let (_, said) = weft(&kubernetes, "check -o json").await;
    assert_eq!(failed(&said), ["installed", "labels"], "{said}");
    let (fine, said) = weft(&kubernetes, "status").await;
    assert!(
        !fine && said.contains("there is no control plane in namespace weft-system"),
        "{said}"
    );
    let (fine, said) = weft(&kubernetes, "status routes").await;
    assert!(fine && said.contains("there are no routes or policies"), "{said}");
    kubernetes.kill_component("kube-apiserver").await;
    let (_, said) = weft(&kubernetes, "check -o json").await;
    assert_eq!(failed(&said), ["api-server"], "{said}");
}
