//! Pods that are refused, and an injector that is not there.

use super::*;

#[tokio::test]
async fn bad_annotations_are_refused_by_name_in_one_line() {
    let rig = Rig::shared();
    let meshed = rig.namespace(&[ENABLED]).await;
    let megabyte = "8".repeat(1 << 20);
    for (name, value) in [
        ("weft.dev/skip-inbound-ports", "80; rm -rf /"),
        ("weft.dev/skip-outbound-ports", "$(WEFT_TOKEN_FILE)"),
        ("weft.dev/skip-outbound-cidrs", "10.0.0.0/8\n0.0.0.0/0"),
        ("weft.dev/opaque-ports", "`id`"),
        ("weft.dev/log-level", "debug\u{1b}[2J"),
        ("weft.dev/proxy-cpu", "-1"),
        ("weft.dev/proxy-memory", "1Ei"),
        ("weft.dev/drain-time", "forever"),
        ("weft.dev/inject", "yes"),
        ("weft.dev/skip-inbound-ports", &megabyte),
    ] {
        let refused = rig
            .create(&meshed, &annotated(name, value), &[])
            .await
            .expect_err("refused");
        assert!(refused.contains("denied the request: annotation"), "{refused}");
        assert!(refused.contains(name), "{refused}");
        assert_eq!(refused.trim_end().lines().count(), 1, "{refused}");
    }
}

#[tokio::test]
async fn pod_security_is_answered_in_one_sentence_with_the_remedy() {
    let rig = Rig::shared();
    for level in ["baseline", "restricted"] {
        let enforce = format!("pod-security.kubernetes.io/enforce={level}");
        let namespace = rig.namespace(&[ENABLED, &enforce]).await;
        let refused = rig.create(&namespace, &pod(), &[]).await.expect_err("refused");
        let expected = format!("namespace {namespace} enforces the Pod Security level {level}");
        assert!(refused.contains(&expected), "{refused}");
        assert!(
            refused.contains("label the namespace pod-security.kubernetes.io/enforce=privileged"),
            "{refused}"
        );
    }
    let privileged = "pod-security.kubernetes.io/enforce=privileged";
    let namespace = rig.namespace(&[ENABLED, privileged]).await;
    assert!(is_meshed(
        &rig.create(&namespace, &pod(), &[]).await.expect("a good pod")
    ));
}

#[tokio::test]
async fn a_container_that_runs_as_the_sidecar_is_refused() {
    let rig = Rig::shared();
    let meshed = rig.namespace(&[ENABLED]).await;
    let mut pod = pod();
    pod["spec"]["securityContext"] = json!({ "runAsUser": 2102 });
    let refused = rig.create(&meshed, &pod, &[]).await.expect_err("refused");
    assert!(refused.contains("container cart runs as user 2102"), "{refused}");
}

/// The chart's webhooks with nobody behind them, for namespaces of this test alone.
#[tokio::test]
async fn an_injector_that_is_down_stops_nobody_but_those_who_asked() {
    let rig = Rig::shared();
    let _calm = rig.calm.read().await;
    let down = rig.namespace(&["weft.test/down=true"]).await;
    let meshed = rig.namespace(&["weft.test/down=true", ENABLED]).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let url = format!(
        "https://{}/inject",
        closed.expect("a port that nobody listens on")
    );
    let mut configuration = rig.webhooks("down", &url).await;
    for webhook in configuration["webhooks"].as_array_mut().expect("webhooks") {
        webhook["namespaceSelector"]["matchExpressions"]
            .as_array_mut()
            .expect("the chart leaves namespaces out")
            .push(json!({ "key": "weft.test/down", "operator": "Exists" }));
    }
    rig.kubernetes
        .apply(&configuration.to_string())
        .await
        .expect("webhooks can be set up");
    rig.settled(&meshed, &pod(), Result::is_err).await;

    rig.create(&down, &pod(), &[])
        .await
        .expect("no business of the mesh");
    rig.create(&meshed, &annotated("weft.dev/inject", "disabled"), &[])
        .await
        .expect("opted out");
    for (namespace, pod) in [(&meshed, pod()), (&down, annotated("weft.dev/inject", "enabled"))] {
        let refused = rig.create(namespace, &pod, &[]).await.expect_err("closed");
        assert!(refused.contains("failed calling webhook"), "{refused}");
    }
    rig.kubernetes
        .kubectl(&["delete", "mutatingwebhookconfiguration", "down"])
        .await
        .expect("gone");
}
