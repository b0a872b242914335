use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    run: RunArgs,
}

const NEEDED: &[&str] = &[
    "weft-proxy",
    "--control-plane=127.0.0.1:15010",
    "--trust-bundle=b.pem",
    "--token-file=t",
    "--namespace=shop",
    "--state-dir=s",
];

fn config(flags: &[&str]) -> Result<Config, ConfigErrors> {
    let args = Command::try_parse_from(NEEDED.iter().chain(flags)).unwrap().run;
    Config::new(&args, 2)
}

fn problems(flags: &[&str]) -> Vec<&'static str> {
    config(flags)
        .unwrap_err()
        .0
        .iter()
        .map(|problem| problem.flag)
        .collect()
}

#[test]
fn a_whole_workload() {
    let config = config(&[
        "--workload=user-1",
        "--inbound=0.0.0.0:15006=127.0.0.1:8080",
        "--inbound=127.0.0.1:0=9090",
        "--register=user:80=127.0.0.1:8080",
        "--register=user:90=localhost:9090",
        "--bind=127.0.0.1:0=broker:5222",
        "--label=version=v1",
        "--zone=a",
        "--health-check=http://127.0.0.1:8080/healthz?deep=1",
        "--egress=allow",
        "--workers=3",
        "--drain-time=1500ms",
        "--access-log=sample",
    ])
    .unwrap();
    assert_eq!(config.inbound[1].app, "127.0.0.1:9090".parse().unwrap());
    assert_eq!(
        config.registrations.iter().map(|r| r.inbound).collect::<Vec<_>>(),
        [0, 1]
    );
    assert_eq!(
        &*config.expand(&config.binds[0].authority),
        "broker.shop.svc.cluster.local:5222"
    );
    assert_eq!(config.registered_apps().len(), 2);
    assert_eq!(config.labels["version"], "v1");
    let health = HealthCheck::Http {
        address: "127.0.0.1:8080".parse().unwrap(),
        path: "/healthz?deep=1".into(),
    };
    assert_eq!(config.health_check, health);
    assert_eq!(
        (config.workers, config.drain_time),
        (3, Duration::from_millis(1500))
    );
    assert_eq!(
        (config.egress_allowed, config.access_log),
        (true, AccessLogMode::Sample)
    );
    let own = config.trust_domain.workload("shop", "user").unwrap();
    assert_eq!(config.node_id(&own), "shop/user-1");
    assert_eq!(
        config.control_plane_id.as_str(),
        "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane"
    );
}

#[test]
fn defaults_and_a_client_without_inbound() {
    let config = config(&["--workload=load-1"]).unwrap();
    assert_eq!((config.workers, config.drain_time), (2, Duration::from_secs(30)));
    assert_eq!(
        (config.egress_allowed, config.access_log),
        (false, AccessLogMode::Off)
    );
    assert!(config.outbound.ip().is_loopback() && config.admin.ip().is_loopback());
    let own = config.trust_domain.workload("shop", "load").unwrap();
    assert_eq!(config.node_id(&own), "shop/sa/load");
}

#[test]
fn a_single_inbound_is_what_is_registered() {
    let flags = [
        "--workload=user-1",
        "--inbound=127.0.0.1:0=8080",
        "--register=user:80",
    ];
    assert_eq!(config(&flags).unwrap().registrations[0].inbound, 0);
}

#[test]
fn all_mistakes_are_told_together() {
    let found = problems(&[
        "--trust-domain=Cluster.Local",
        "--outbound=0.0.0.0:15001",
        "--bind=127.0.0.1:0",
        "--bind=10.0.0.1:0=user",
        "--inbound=nowhere=8080",
        "--register=user",
        "--register=user:0",
        "--label=x",
        "--health-check=ftp://x",
        "--egress=maybe",
        "--workers=0",
        "--admin=10.0.0.1:1",
        "--drain-time=soon",
        "--log-level=loud",
        "--access-log=yes",
    ]);
    for flag in [
        "--trust-domain",
        "--outbound",
        "--bind",
        "--inbound",
        "--register",
        "--workload",
        "--label",
        "--health-check",
        "--egress",
        "--workers",
        "--admin",
        "--drain-time",
        "--log-level",
        "--access-log",
    ] {
        assert!(found.contains(&flag), "{flag} is missing in {found:?}");
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    assert_eq!(problems(&["--inbound=127.0.0.1:0=8080"]), ["--workload"]);
    assert_eq!(problems(&["--register=user:80"]), ["--register"]);
    let two = [
        "--workload=a",
        "--inbound=127.0.0.1:0=1",
        "--inbound=127.0.0.1:0=2",
        "--register=user:80",
    ];
    assert_eq!(problems(&two), ["--register"]);
    assert_eq!(problems(&["--drain-time=2h"]), ["--drain-time"]);
    assert_eq!(
        problems(&["--drain-time=99999999999999999999s"]),
        ["--drain-time"]
    );
}

#[test]
fn messages_name_flag_value_and_remedy() {
    let text = config(&["--egress=\u{1b}[1m", "--workers=x"])
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "--egress `\\u{1b}[1m`: it must be one of deny, allow\n--workers `x`: it must be 1 to 256"
    );
}

#[test]
fn a_captured_pod() {
    let config = config(&[
        "--workload=user-1",
        "--captured-outbound=[::]:15001",
        "--captured-inbound=0.0.0.0:15006",
        "--mesh-cidrs=10.0.0.0/8,fd00::/8",
        "--opaque-ports=3306,6000-6010",
        "--pod-ips=10.1.2.3,fd00::3",
        r#"--probes={"app/liveness": {"tcpSocket": {"port": 80}}}"#,
    ])
    .unwrap();
    assert!(config.has_inbound());
    let own = config.trust_domain.workload("shop", "user").unwrap();
    assert_eq!(config.node_id(&own), "shop/user-1");
    let ip = |text: &str| text.parse().unwrap();
    assert!(config.capture.may_be_meshed(ip("10.9.9.9")) && config.capture.may_be_meshed(ip("fd12::1")));
    assert!(!config.capture.may_be_meshed(ip("192.168.0.1")));
    assert!(
        config.capture.is_opaque(3306) && config.capture.is_opaque(6005) && !config.capture.is_opaque(80)
    );
}

#[test]
fn the_cluster_is_in_the_private_blocks_unless_it_is_said() {
    let capture = config(&[]).unwrap().capture;
    for (ip, inside) in [
        ("10.0.0.1", true),
        ("172.31.0.1", true),
        ("100.64.0.1", true),
        ("8.8.8.8", false),
    ] {
        assert_eq!(capture.may_be_meshed(ip.parse().unwrap()), inside, "{ip}");
    }
}

#[test]
fn mistakes_about_capture_are_told_together() {
    assert_eq!(
        problems(&[
            "--captured-outbound=everywhere",
            "--captured-inbound=[::]:15006",
            "--mesh-cidrs=10.0.0.1/8",
            "--opaque-ports=http",
            "--pod-ips=me",
            "--probes=[]",
        ]),
        [
            "--captured-outbound",
            "--mesh-cidrs",
            "--opaque-ports",
            "--pod-ips",
            "--probes",
            "--workload"
        ]
    );
}
