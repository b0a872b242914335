//! The rules themselves, read back by `nft`.

use crate::net::Namespace;
use crate::pod::init;

/// Flags with something in every list.
const FULL: [&str; 6] = [
    "--skip-inbound-ports=22,9000-9010",
    "--skip-outbound-ports=3306",
    "--skip-outbound-cidrs=10.1.2.0/24,172.16.0.0/12,192.0.2.7,fd00:1::/33,fd00::7",
    "--proxy-uid=4711",
    "--outbound-port=16001",
    "--inbound-port=16006",
];

fn run(namespace: &Namespace, flags: &[&str]) -> String {
    let mut command = init();
    command.extend(flags.iter().map(ToString::to_string));
    namespace.must(&command.iter().map(|part| &**part).collect::<Vec<_>>())
}

fn listed(namespace: &Namespace) -> String {
    namespace.must(&["nft", "list", "ruleset"])
}

/// What a namespace holds after `nft` itself has read `text`.
fn compiled(text: &str) -> String {
    let other = Namespace::new();
    let file = tempfile::NamedTempFile::new().expect("the temporary folder is writable");
    std::fs::write(file.path(), text).expect("writable");
    other.must(&["nft", "-f", &file.path().display().to_string()]);
    listed(&other)
}

#[test]
fn the_kernel_holds_what_the_text_says() {
    for flags in [&[][..], &FULL, &["--skip-outbound-cidrs=0.0.0.0/0,::/0"]] {
        let namespace = Namespace::new();
        run(&namespace, flags);
        let printed = run(&namespace, &[flags, &["--dry-run"]].concat());
        assert_eq!(listed(&namespace), compiled(&printed), "{flags:?}");
        assert_eq!(run(&namespace, &["--show"]), printed, "{flags:?}");
    }
}

#[test]
fn the_kernels_own_json_knows_every_rule() {
    let namespace = Namespace::new();
    run(&namespace, &FULL);
    let json = namespace.must(&["nft", "--json", "list", "ruleset"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let objects = json["nftables"].as_array().expect("a list");
    let count = |kind: &str| objects.iter().filter(|object| object.get(kind).is_some()).count();
    let printed = run(&namespace, &["--dry-run"]);
    assert_eq!((count("table"), count("chain")), (1, 5));
    let rules = printed
        .lines()
        .filter(|line| line.starts_with("\t\t") && !line.contains(" hook "));
    // FULL has eight more than the default: 2 inbound, 1 outbound port, 5 blocks; and no rule is raw bytes to nft.
    assert_eq!(count("rule"), rules.count() + 8);
    assert!(!json.to_string().contains("\"base\""), "{json}");
}

#[test]
fn again_and_with_other_options_is_one_set_of_rules() {
    let namespace = Namespace::new();
    run(&namespace, &FULL);
    let once = listed(&namespace);
    run(&namespace, &FULL);
    assert_eq!(listed(&namespace), once);
    run(&namespace, &[]);
    assert_eq!(listed(&namespace), compiled(&run(&namespace, &["--dry-run"])));
}

#[test]
fn removal_leaves_no_trace_and_nobody_elses_rules_are_touched() {
    let namespace = Namespace::new();
    let foreign = "add table inet other; add chain inet other c { type nat hook output priority 0; }; \
                   add table ip weft; add chain ip weft c";
    namespace.must(&["nft", foreign]);
    let before = listed(&namespace);
    run(&namespace, &["--remove"]);
    assert_eq!(listed(&namespace), before, "removing what isn't there");
    run(&namespace, &FULL);
    assert_ne!(listed(&namespace), before);
    run(&namespace, &[]);
    run(&namespace, &["--remove"]);
    assert_eq!(listed(&namespace), before);
    let show = namespace.run(
        &[init(), vec!["--show".to_owned()]]
            .concat()
            .iter()
            .map(|part| &**part)
            .collect::<Vec<_>>(),
    );
    assert_eq!(show.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&show.stderr).contains("capture is not in force"));
}

#[test]
fn a_dry_run_needs_no_rights_and_changes_nothing() {
    let namespace = Namespace::new();
    let [weft, proxy, init] = init().try_into().expect("three parts");
    let unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let command = [&unprivileged[..], &[&weft, &proxy, &init, "--dry-run"]].concat();
    assert!(namespace.must(&command).contains("redirect to :15001"));
    assert_eq!(listed(&namespace), "");
}

#[test]
fn without_rights_it_is_refused_with_what_is_missing() {
    let namespace = Namespace::new();
    let [weft, proxy, init] = init().try_into().expect("three parts");
    for drop in [
        &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"][..],
        &["setpriv", "--bounding-set=-net_admin"],
    ] {
        for flag in [&[][..], &["--remove"]] {
            let output = namespace.run(&[drop, &[&weft, &proxy, &init], flag].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(
                said.contains("CAP_NET_ADMIN") && said.contains("NET_ADMIN]"),
                "{said}"
            );
        }
    }
    assert_eq!(listed(&namespace), "");
}

#[test]
fn what_somebody_else_wrote_into_our_table_is_said_to_be_theirs() {
    let namespace = Namespace::new();
    run(&namespace, &[]);
    namespace.must(&[
        "nft", "add", "rule", "inet", "weft", "guard", "udp", "dport", "53", "drop",
    ]);
    let mut show = init();
    show.push("--show".to_owned());
    let output = namespace.run(&show.iter().map(|part| &**part).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("chain guard"));
    run(&namespace, &[]);
    assert_eq!(run(&namespace, &["--show"]), run(&namespace, &["--dry-run"]));
}

#[test]
fn wrong_flags_are_told_with_the_flag() {
    let namespace = Namespace::new();
    for (flag, told) in [
        ("--skip-inbound-ports=80,http", "`http`"),
        ("--skip-outbound-ports=70000", "`70000`"),
        ("--skip-outbound-cidrs=10.0.0.1/8", "10.0.0.0/8"),
        ("--proxy-uid=0", "uid 0"),
        ("--inbound-port=15001", "15001"),
    ] {
        let mut command = init();
        command.push(flag.to_owned());
        let output = namespace.run(&command.iter().map(|part| &**part).collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let name = flag.split('=').next().expect("a name");
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(name) && said.contains(told), "{said}");
    }
    assert_eq!(listed(&namespace), "");
}
