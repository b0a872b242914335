//! What is behind an authority.

use super::*;

#[test]
fn a_service_without_routes_leads_to_itself() {
    let mut catalog = user_and("");
    let expected = Listener::Outbound {
        protocol: Protocol::Detect,
        routes: Some(USER_NAME.into()),
        cluster: Some(USER_NAME.into()),
    };
    for name in [
        "user",
        "user:80",
        "user.shop:80",
        "user.shop.svc:80",
        USER_NAME,
        "10.0.0.1:80",
    ] {
        assert_eq!(
            listener(&mut catalog, name, "shop").as_ref(),
            Some(&expected),
            "{name}"
        );
    }
    let rules = &table(&mut catalog, USER_NAME, "shop").unwrap().hosts[0].rules;
    assert_eq!((rules.len(), &*rules[0].name), (1, "Service/shop/user/80"));
}

#[test]
fn what_is_not_there_is_nothing() {
    let mut catalog = user_and(
        "{kind: Service, apiVersion: v1, metadata: {name: out, namespace: shop}, spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}}",
    );
    for name in [
        "user:81",
        "user.other:80",
        "nobody:80",
        "10.0.0.1:81",
        "10.9.0.1:80",
        "out:80",
        "a.b.c:80",
        "inbound/shop/x",
    ] {
        assert_eq!(listener(&mut catalog, name, "shop"), None, "{name}");
    }
    assert_eq!(
        table(&mut catalog, "10.0.0.1:80", "shop"),
        None,
        "a cluster IP has its Service's table"
    );
}

#[test]
fn the_declared_protocol_decides_what_a_listener_offers() {
    let service = |port: &str| {
        format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: s, namespace: shop}}, spec: {{ports: [{{port: 80, {port}}}]}}}}"
        )
    };
    for (port, expected, routes, opaque) in [
        ("name: http", Protocol::Http1, true, false),
        ("name: http2-x", Protocol::Http2, true, false),
        ("name: grpc", Protocol::Grpc, true, false),
        (
            "name: x, appProtocol: kubernetes.io/h2c",
            Protocol::Http2,
            true,
            false,
        ),
        ("name: http, appProtocol: tcp", Protocol::Tcp, false, true),
        ("name: x", Protocol::Detect, true, true),
    ] {
        let mut catalog = catalog(&service(port));
        let Some(Listener::Outbound {
            protocol,
            routes: table,
            cluster,
        }) = listener(&mut catalog, "s:80", "shop")
        else {
            panic!("{port}");
        };
        assert_eq!(
            (protocol, table.is_some(), cluster.is_some()),
            (expected, routes, opaque),
            "{port}"
        );
    }
}

#[test]
fn the_address_of_an_endpoint_leads_past_all_routes_and_keeps_its_identity() {
    let mut catalog = user_and(
        "{kind: HTTPRoute, apiVersion: v1, metadata: {name: r, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: user}], rules: [{backendRefs: [{name: nobody, port: 80}]}]}}",
    );
    let name = "10.1.0.1:8080";
    let rules = &table(&mut catalog, name, "shop").unwrap().hosts[0].rules;
    assert_eq!((rules.len(), &*rules[0].name), (1, "Endpoint/shop/user-1"));
    let found = endpoints(&mut catalog, name);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].identity.as_deref(),
        Some("spiffe://mesh.test/ns/shop/sa/user")
    );
    assert_eq!(
        cluster(&mut catalog, name).identities,
        [found[0].identity.clone().unwrap()]
    );
    assert_eq!(
        listener(&mut catalog, "10.1.0.1:8081", "shop"),
        None,
        "another port of it"
    );
}

#[test]
fn the_address_of_a_pod_without_a_service_is_meshed() {
    let mut catalog = catalog(
        "{kind: Pod, apiVersion: v1, metadata: {name: p, namespace: shop}, spec: {serviceAccountName: job, containers: []}, status: {podIP: 10.1.0.7}}",
    );
    let found = endpoints(&mut catalog, "10.1.0.7:9999");
    assert_eq!(
        found[0].identity.as_deref(),
        Some("spiffe://mesh.test/ns/shop/sa/job")
    );
    assert_eq!(protocol(&mut catalog, "10.1.0.7:9999", "shop"), Protocol::Detect);
}

#[test]
fn of_two_services_with_one_cluster_ip_the_older_has_it() {
    let service = |name: &str, created: &str| {
        format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: {name}, namespace: shop, creationTimestamp: '{created}'}}, spec: {{clusterIP: 10.0.0.9, ports: [{{port: 80}}]}}}}"
        )
    };
    let mut catalog = catalog(&format!(
        "{}\n---\n{}",
        service("a", "2026-02-01T00:00:00Z"),
        service("b", "2026-01-01T00:00:00Z")
    ));
    let Some(Listener::Outbound { cluster, .. }) = listener(&mut catalog, "10.0.0.9:80", "shop") else {
        panic!()
    };
    assert_eq!(cluster.as_deref(), Some("b.shop.svc.cluster.local:80"));
    let hosts = table(&mut catalog, crate::names::WILDCARD, "shop").unwrap().hosts;
    let owner = hosts
        .iter()
        .find(|host| host.domains.contains(&"10.0.0.9:80".into()))
        .unwrap();
    assert_eq!(&*owner.name, "b.shop.svc.cluster.local:80");
}

#[test]
fn slices_add_up_and_say_who_is_ready() {
    let mut catalog = user_and(
        "
apiVersion: v1
kind: Pod
metadata: {name: user-b, namespace: shop}
spec: {serviceAccountName: special, containers: []}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: user-2, namespace: shop, labels: {kubernetes.io/service-name: user}}
addressType: IPv4
ports: [{port: 8081}]
endpoints:
- {addresses: [10.1.0.5], targetRef: {kind: Pod, name: user-b}}
- {addresses: [10.1.0.4], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.0.3], conditions: {ready: false}}
- {addresses: [10.1.0.2]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other-port, namespace: shop, labels: {kubernetes.io/service-name: user}}
addressType: IPv4
ports: [{name: metrics, port: 9090}]
endpoints: [{addresses: [10.1.0.1]}]
",
    );
    let found = endpoints(&mut catalog, USER_NAME);
    let short: Vec<(String, bool, Option<&str>, &str)> = found
        .iter()
        .map(|endpoint| {
            (
                endpoint.address.to_string(),
                endpoint.ready,
                endpoint.identity.as_deref(),
                &*endpoint.zone,
            )
        })
        .collect();
    let expected = [
        (
            "10.1.0.1:8080".to_owned(),
            true,
            Some("spiffe://mesh.test/ns/shop/sa/user"),
            "west",
        ),
        ("10.1.0.2:8081".to_owned(), true, None, ""),
        ("10.1.0.4:8081".to_owned(), false, None, ""),
        (
            "10.1.0.5:8081".to_owned(),
            true,
            Some("spiffe://mesh.test/ns/shop/sa/special"),
            "",
        ),
    ];
    assert_eq!(short, expected);
    let identities = cluster(&mut catalog, USER_NAME).identities;
    assert_eq!(
        identities,
        [
            "spiffe://mesh.test/ns/shop/sa/special".into(),
            "spiffe://mesh.test/ns/shop/sa/user".into()
        ] as [crate::resource::Name; 2]
    );
}

#[test]
fn an_address_in_two_slices_is_one_endpoint_the_ready_and_meshed_one() {
    let mut catalog = user_and(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-copy, namespace: shop, labels: {kubernetes.io/service-name: user}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.1], conditions: {ready: true}}]
",
    );
    let found = endpoints(&mut catalog, USER_NAME);
    assert_eq!(found.len(), 1);
    assert!(found[0].identity.is_some());
}

#[test]
fn a_wildcard_holds_every_way_to_name_a_service_once() {
    let mut catalog = user_and(
        "{kind: Service, apiVersion: v1, metadata: {name: db, namespace: shop}, spec: {ports: [{name: tcp, port: 5432}]}}",
    );
    let hosts = table(&mut catalog, crate::names::WILDCARD, "shop").unwrap().hosts;
    assert_eq!(hosts.len(), 1, "opaque ports have no Host");
    let expected = [
        "user.shop.svc.cluster.local:80",
        "user.shop.svc:80",
        "user.shop:80",
        "user:80",
        "10.0.0.1:80",
        "user.shop.svc.cluster.local",
        "user.shop.svc",
        "user.shop",
        "user",
        "10.0.0.1",
    ];
    assert!(
        hosts[0].domains.iter().map(AsRef::as_ref).eq(expected),
        "{:?}",
        hosts[0].domains
    );
    let elsewhere = table(&mut catalog, crate::names::WILDCARD, "other")
        .unwrap()
        .hosts;
    assert!(
        !elsewhere[0].domains.contains(&"user".into()),
        "a short name is the namespace's own"
    );
}

#[test]
fn the_trust_bundle_is_sorted_and_there_is_only_one() {
    let mut catalog = catalog("");
    assert_eq!(
        resource(&mut catalog, Kind::Secret, "spiffe://mesh.test", "shop"),
        None
    );
    catalog.apply(vec![Event::Trust(vec![[2].into(), [1].into(), [2].into()])]);
    let expected = Resource::TrustBundle(vec![[1].into(), [2].into()]);
    assert_eq!(
        resource(&mut catalog, Kind::Secret, "spiffe://mesh.test", "shop"),
        Some(expected)
    );
    assert_eq!(
        resource(&mut catalog, Kind::Secret, "spiffe://other.test", "shop"),
        None
    );
}

#[test]
fn hints_are_what_the_identity_uses() {
    let mut catalog = catalog("");
    register(&mut catalog, "shop/user-1", &[("user", 80, 9001)], &[]);
    let listeners = ["user:80", "order:80"].map(Into::into).into();
    let identity = "spiffe://mesh.test/ns/shop/sa/shop".into();
    catalog.apply(vec![Event::UsedBy { identity, listeners }]);
    let expected = Resource::Hints(vec!["order:80".into(), "user:80".into()]);
    for node in ["shop/user-1", "shop/sa/shop"] {
        assert_eq!(
            resource(&mut catalog, Kind::Hints, &format!("hints/{node}"), "shop"),
            Some(expected.clone())
        );
    }
    let other = resource(&mut catalog, Kind::Hints, "hints/shop/sa/other", "shop");
    assert_eq!(other, Some(Resource::Hints(Vec::new())));
    assert_eq!(
        resource(&mut catalog, Kind::Hints, "hints/shop/nobody", "shop"),
        None
    );
}
