use proptest::prelude::*;

use super::*;

/// A packet that begins a connection, with all that rules look at.
#[derive(Clone, Copy, Debug)]
struct Packet {
    uid: u32,
    priority: u32,
    /// To, or from, an address of this host.
    local: bool,
    address: std::net::IpAddr,
    port: u16,
    tcp: bool,
    redirected: bool,
}

/// What rules did with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passed,
    Redirected(u16),
    Reset,
}

fn holds(condition: Condition, packet: &Packet) -> bool {
    match condition {
        Condition::Tcp => packet.tcp,
        Condition::Uid(uid) => packet.uid == uid,
        Condition::Priority(priority) => packet.priority == priority,
        Condition::ToSelf => packet.local,
        Condition::FromNetwork => !packet.local,
        Condition::Address(cidr) => cidr.contains(packet.address),
        Condition::Port(ports) => packet.tcp && ports.contains(packet.port),
        Condition::NotRedirected => !packet.redirected,
    }
}

/// Goes through the chain `name` as the kernel does.
fn through(ruleset: &Ruleset, name: &str, packet: &Packet) -> Fate {
    let chain = ruleset.chains.iter().find(|chain| chain.name == name);
    let rules = &chain.expect("a chain").rules;
    let all = |rule: &&Rule| rule.conditions.iter().all(|condition| holds(*condition, packet));
    match rules.iter().find(all).map(|rule| &rule.verdict) {
        None | Some(Verdict::Accept) => Fate::Passed,
        Some(Verdict::Goto(chain)) => through(ruleset, chain, packet),
        Some(Verdict::Redirect(port)) => Fate::Redirected(*port),
        Some(Verdict::Reset) => Fate::Reset,
    }
}

fn ruleset(options: &Options) -> Ruleset {
    Ruleset::new(options).expect("good options")
}

fn packet() -> Packet {
    Packet {
        uid: 1000,
        priority: 0,
        local: false,
        address: "10.0.0.9".parse().expect("an address"),
        port: 80,
        tcp: true,
        redirected: false,
    }
}

#[test]
fn what_an_application_sends_is_captured() {
    let rules = ruleset(&Options::default());
    assert_eq!(
        through(&rules, OUTBOUND, &packet()),
        Fate::Redirected(OUTBOUND_PORT)
    );
    let udp = Packet {
        tcp: false,
        ..packet()
    };
    assert_eq!(through(&rules, OUTBOUND, &udp), Fate::Passed);
    let own_pod = Packet {
        local: true,
        ..packet()
    };
    assert_eq!(through(&rules, OUTBOUND, &own_pod), Fate::Passed);
}

#[test]
fn the_proxys_own_connections_are_left_alone_but_for_mtls_to_its_own_pod() {
    let options = Options {
        skip_inbound_ports: ports("9000").expect("ports"),
        ..Options::default()
    };
    let rules = ruleset(&options);
    let proxy = Packet {
        uid: PROXY_UID,
        ..packet()
    };
    assert_eq!(through(&rules, OUTBOUND, &proxy), Fate::Passed);
    let own = Packet { local: true, ..proxy };
    assert_eq!(through(&rules, OUTBOUND, &own), Fate::Redirected(INBOUND_PORT));
    let skipped = Packet { port: 9000, ..own };
    assert_eq!(through(&rules, OUTBOUND, &skipped), Fate::Passed);
    let application = Packet {
        priority: TO_APPLICATION,
        ..own
    };
    assert_eq!(through(&rules, OUTBOUND, &application), Fate::Passed);
    let loopback = Packet {
        address: "127.0.0.1".parse().expect("an address"),
        ..own
    };
    assert_eq!(through(&rules, OUTBOUND, &loopback), Fate::Passed);
}

#[test]
fn exclusions() {
    let options = Options {
        skip_inbound_ports: ports("22, 9000-9010").expect("ports"),
        skip_outbound_ports: ports("3306").expect("ports"),
        skip_outbound_cidrs: cidrs("10.1.0.0/16,fd00::/8").expect("blocks"),
        ..Options::default()
    };
    let rules = ruleset(&options);
    let to = |address: &str, port| Packet {
        address: address.parse().expect("an address"),
        port,
        ..packet()
    };
    for (packet, captured) in [
        (to("10.0.0.1", 80), true),
        (to("10.1.0.1", 80), false),
        (to("10.0.0.1", 3306), false),
        (to("fd00::1", 80), false),
        (to("2001:db8::1", 80), true),
    ] {
        let fate = through(&rules, OUTBOUND, &packet);
        assert_eq!(fate != Fate::Passed, captured, "{packet:?}");
    }
    for (port, captured) in [
        (22, false),
        (23, true),
        (8999, true),
        (9000, false),
        (9010, false),
        (9011, true),
    ] {
        let fate = through(&rules, INBOUND, &Packet { port, ..packet() });
        assert_eq!(fate == Fate::Redirected(INBOUND_PORT), captured, "{port}");
    }
}

#[test]
fn nobody_outside_reaches_the_proxys_own_ports() {
    let rules = ruleset(&Options::default());
    for port in [ADMIN_PORT, OUTBOUND_PORT, EXPLICIT_PORT, INBOUND_PORT] {
        let direct = Packet { port, ..packet() };
        assert_eq!(
            through(&rules, INBOUND, &direct),
            Fate::Passed,
            "{port} is not made to look captured"
        );
        assert_eq!(through(&rules, GUARD, &direct), Fate::Reset, "{port}");
        let captured = Packet {
            redirected: true,
            ..direct
        };
        assert_eq!(through(&rules, GUARD, &captured), Fate::Passed, "{port}");
        let own = Packet {
            local: true,
            ..direct
        };
        assert_eq!(
            through(&rules, GUARD, &own),
            Fate::Passed,
            "{port} over loopback is the proxy's to judge"
        );
    }
    let status = Packet {
        port: STATUS_PORT,
        ..packet()
    };
    assert_eq!(through(&rules, INBOUND, &status), Fate::Passed);
    assert_eq!(through(&rules, GUARD, &status), Fate::Passed);
}

#[test]
fn lists_are_read() {
    let shown = |text: &str| {
        let ports = ports(text).expect(text);
        ports
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    assert_eq!(shown(""), "");
    assert_eq!(shown(" "), "");
    assert_eq!(shown("80"), "80");
    assert_eq!(shown("443, 80,80 ,8000-8010"), "80,443,8000-8010");
    assert_eq!(cidrs("").expect("empty"), []);
}

#[test]
fn bad_lists_are_refused_with_the_entry() {
    for (text, entry) in [
        ("0", "0"),
        ("80,", ""),
        ("80,x", "x"),
        ("65536", "65536"),
        ("-1", "-1"),
        ("+1", "+1"),
        ("10-9", "10-9"),
        ("0-9", "0-9"),
        ("1-2-3", "1-2-3"),
        ("80;rm -rf /", "80;rm -rf /"),
        ("80\n90", "80\\n90"),
    ] {
        assert_eq!(ports(text), Err(OptionsError::Port(entry.to_owned())), "{text:?}");
    }
    let long = vec!["80"; MAX_ENTRIES + 1].join(",");
    assert_eq!(ports(&long), Err(OptionsError::TooMany(MAX_ENTRIES + 1)));
    let error = cidrs("10.0.0.0/8,10.0.0.1/8").expect_err("host bits");
    assert_eq!(
        error.to_string(),
        "`10.0.0.1/8`: the address has bits below its prefix; the block that it lies in is 10.0.0.0/8"
    );
    assert!(
        ports(&"9".repeat(1 << 20))
            .expect_err("a megabyte")
            .to_string()
            .len()
            < 200
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let with = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        Ruleset::new(&options)
    };
    assert_eq!(with(|o| o.proxy_uid = 0), Err(OptionsError::Root));
    assert_eq!(with(|o| o.inbound_port = 0), Err(OptionsError::NoPort));
    assert_eq!(
        with(|o| o.inbound_port = OUTBOUND_PORT),
        Err(OptionsError::SamePort(OUTBOUND_PORT))
    );
    let range = PortRange::one(1);
    assert_eq!(
        Ruleset::new(&Options {
            skip_inbound_ports: vec![range; MAX_ENTRIES + 1],
            ..Options::default()
        }),
        Err(OptionsError::TooMany(MAX_ENTRIES + 1))
    );
}

#[test]
fn text() {
    let options = Options {
        skip_inbound_ports: ports("9000-9010").expect("ports"),
        skip_outbound_ports: ports("3306").expect("ports"),
        skip_outbound_cidrs: cidrs("10.1.0.0/16,::/0").expect("blocks"),
        ..Options::default()
    };
    let expected = "\
table inet weft {
	chain outbound {
		type nat hook output priority -100; policy accept;
		meta skuid 2102 oif \"lo\" goto own
		meta skuid 2102 accept
		oif \"lo\" accept
		ip daddr 10.1.0.0/16 accept
		meta nfproto ipv6 accept
		tcp dport 3306 accept
		meta l4proto tcp redirect to :15001
	}

	chain own {
		meta priority 0:4 accept
		ip daddr 127.0.0.0/8 accept
		ip6 daddr ::1/128 accept
		goto taken
	}

	chain inbound {
		type nat hook prerouting priority -100; policy accept;
		goto taken
	}

	chain taken {
		tcp dport 15000 accept
		tcp dport 15001 accept
		tcp dport 15002 accept
		tcp dport 15006 accept
		tcp dport 15020 accept
		tcp dport 9000-9010 accept
		meta l4proto tcp redirect to :15006
	}

	chain guard {
		type filter hook input priority 0; policy accept;
		iif != \"lo\" tcp dport 15000 ct status ! dnat reject with tcp reset
		iif != \"lo\" tcp dport 15001 ct status ! dnat reject with tcp reset
		iif != \"lo\" tcp dport 15002 ct status ! dnat reject with tcp reset
		iif != \"lo\" tcp dport 15006 ct status ! dnat reject with tcp reset
	}
}
";
    assert_eq!(ruleset(&options).to_string(), expected);
}

fn any_ports() -> impl Strategy<Value = Vec<PortRange>> {
    let range = (1_u16.., 0_u16..100).prop_filter_map("a range", |(first, more)| {
        PortRange::new(first, first.checked_add(more)?)
    });
    proptest::collection::vec(range, 0..8)
}

fn any_cidrs() -> impl Strategy<Value = Vec<Cidr>> {
    let cidr = (any::<u32>(), 0_u8..=32).prop_filter_map("a block", |(ip, prefix)| {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Cidr::new(std::net::Ipv4Addr::from(ip & mask).into(), prefix)
    });
    proptest::collection::vec(cidr, 0..8)
}

proptest! {
    /// Whatever is excluded, a connection is captured exactly if nothing excludes it.
    #[test]
    fn captured_is_what_is_not_excluded(
        skip_ports in any_ports(),
        skip_cidrs in any_cidrs(),
        ip: u32,
        port in 1_u16..,
        uid: u32,
        local: bool,
        tcp: bool,
    ) {
        let address = std::net::IpAddr::V4(ip.into());
        let excluded = skip_ports.iter().any(|range| range.contains(port))
            || skip_cidrs.iter().any(|cidr| cidr.contains(address));
        let options = Options {
            skip_outbound_ports: skip_ports,
            skip_outbound_cidrs: skip_cidrs,
            ..Options::default()
        };
        let packet = Packet { uid, local, address, port, tcp, ..packet() };
        prop_assume!(uid != PROXY_UID);
        let captured = through(&ruleset(&options), OUTBOUND, &packet) == Fate::Redirected(OUTBOUND_PORT);
        prop_assert_eq!(captured, tcp && !local && !excluded);
    }

    /// Every range is read as it is written.
    #[test]
    fn ports_are_read_as_they_are_written(ranges in any_ports()) {
        let text: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let mut sorted = ranges;
        sorted.sort_unstable();
        sorted.dedup();
        prop_assert_eq!(ports(&text.join(",")), Ok(sorted));
    }

    /// No text makes the readers panic.
    #[test]
    fn any_text_is_a_list_or_an_error(text: String) {
        let _ = (ports(&text), cidrs(&text));
    }
}
