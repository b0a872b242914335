//! From text to settings: every flag by itself, then what must fit together.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use weft_identity::spiffe::TrustDomain;
use weft_proxy_core::authority::{Authority, Scope};

use super::{
    AccessLogMode, Bind, CONTROL_PLANE_ACCOUNT, Config, ConfigError, ConfigErrors, DEFAULT_PORT, HealthCheck,
    InboundAddress, MAX_DRAIN_TIME, Registration, RunArgs, address, capture,
};

/// Most data threads.
const MAX_WORKERS: usize = 256;

/// Collects what is wrong. A parse function reports here and goes on with `None`.
#[derive(Default)]
pub(super) struct Problems(Vec<ConfigError>);

impl Problems {
    fn add(&mut self, flag: &'static str, value: &str, problem: impl Display) {
        let value = value.chars().take(200).flat_map(char::escape_debug).collect();
        self.0.push(ConfigError {
            flag,
            value,
            problem: problem.to_string(),
        });
    }

    pub(super) fn check<T, E: Display>(
        &mut self,
        flag: &'static str,
        value: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.add(flag, value, error)).ok()
    }

    pub(super) fn parse<T: FromStr<Err: Display>>(&mut self, flag: &'static str, value: &str) -> Option<T> {
        self.check(flag, value, value.parse::<T>())
    }

    pub(super) fn address(&mut self, flag: &'static str, value: &str) -> Option<SocketAddr> {
        self.check(
            flag,
            value,
            address(value).ok_or("an address such as 127.0.0.1:8080 is needed"),
        )
    }

    fn loopback(&mut self, flag: &'static str, value: &str) -> Option<SocketAddr> {
        let address = self.address(flag, value)?;
        let loopback = address.ip().is_loopback().then_some(address);
        self.check(
            flag,
            value,
            loopback.ok_or("it must be a loopback address: whoever reaches it acts as this workload"),
        )
    }

    fn pair<'a>(&mut self, flag: &'static str, value: &'a str) -> Option<(&'a str, &'a str)> {
        self.check(flag, value, value.split_once('=').ok_or("it has no `=`"))
    }
}

pub(super) fn config(args: &RunArgs, default_workers: usize) -> Result<Config, ConfigErrors> {
    let mut problems = Problems::default();
    let config = assemble(args, default_workers, &mut problems);
    match config {
        Some(config) if problems.0.is_empty() => Ok(config),
        _ => Err(ConfigErrors(problems.0)),
    }
}

/// Every part is parsed before the first `?`, so that all mistakes are found.
fn assemble(args: &RunArgs, default_workers: usize, problems: &mut Problems) -> Option<Config> {
    let control_plane = control_plane(&args.control_plane, problems);
    let trust_domain: Option<TrustDomain> = problems.parse("--trust-domain", &args.trust_domain);
    let scope = Scope::new(&args.namespace, &args.cluster_domain);
    let scope = problems.check("--namespace and --cluster-domain", &args.namespace, scope);
    let outbound = problems.loopback("--outbound", &args.outbound);
    let binds = binds(&args.binds, problems);
    let inbound = inbound(&args.inbound, problems);
    let capture = capture::read(args, problems);
    let registrations = registrations(&args.register, &inbound, problems);
    check_workload(args, problems);
    let labels = labels(&args.labels, problems);
    let health_check = health_check(&args.health_check, problems);
    let egress = choice(
        "--egress",
        &args.egress,
        &[("deny", false), ("allow", true)],
        problems,
    );
    let workers = workers(args.workers.as_deref(), default_workers, problems);
    let status = problems.address("--status", &args.status);
    let admin = problems.loopback("--admin", &args.admin);
    let drain_time = drain_time(&args.drain_time, problems);
    problems.check(
        "--log-level",
        &args.log_level,
        weft_ops::log::check(&args.log_level),
    );
    let choices = [
        ("on", AccessLogMode::On),
        ("off", AccessLogMode::Off),
        ("sample", AccessLogMode::Sample),
    ];
    let access_log = choice("--access-log", &args.access_log, &choices, problems);
    let trust_domain = trust_domain?;
    let (namespace, account) = CONTROL_PLANE_ACCOUNT;
    Some(Config {
        control_plane: control_plane?,
        control_plane_id: trust_domain.workload(namespace, account).ok()?,
        trust_bundle: args.trust_bundle.clone(),
        token_file: args.token_file.clone(),
        trust_domain,
        scope: scope?,
        namespace: args.namespace.clone(),
        workload: args.workload.clone(),
        state_dir: args.state_dir.clone(),
        outbound: outbound?,
        binds,
        inbound,
        capture: capture?,
        registrations,
        labels,
        zone: args.zone.as_str().into(),
        health_check: health_check?,
        egress_allowed: egress?,
        workers: workers?,
        status: status?,
        admin: admin?,
        drain_time: drain_time?,
        log_level: args.log_level.clone(),
        access_log: access_log?,
        own_addresses: Vec::new(),
    })
}

fn control_plane(text: &str, problems: &mut Problems) -> Option<String> {
    const FLAG: &str = "--control-plane";
    let authority: Authority = problems.parse(FLAG, text)?;
    if authority.port.is_none() {
        problems.add(FLAG, text, "it needs a port");
    }
    Some(authority.to_string())
}

fn binds(given: &[String], problems: &mut Problems) -> Vec<Bind> {
    const FLAG: &str = "--bind";
    let mut binds = Vec::new();
    for text in given {
        let Some((local, authority)) = problems.pair(FLAG, text) else {
            continue;
        };
        let listen = problems.loopback(FLAG, local);
        let authority: Option<Authority> = problems.parse(FLAG, authority);
        if let (Some(listen), Some(authority)) = (listen, authority) {
            binds.push(Bind { listen, authority });
        }
    }
    binds
}

fn inbound(given: &[String], problems: &mut Problems) -> Vec<InboundAddress> {
    const FLAG: &str = "--inbound";
    let mut inbound = Vec::new();
    for text in given {
        let Some((listen, app)) = problems.pair(FLAG, text) else {
            continue;
        };
        let (listen, app) = (problems.address(FLAG, listen), problems.address(FLAG, app));
        if let (Some(listen), Some(app)) = (listen, app) {
            inbound.push(InboundAddress { listen, app });
        }
    }
    inbound
}

fn registrations(given: &[String], inbound: &[InboundAddress], problems: &mut Problems) -> Vec<Registration> {
    given
        .iter()
        .filter_map(|text| registration(text, inbound, problems))
        .collect()
}

fn registration(text: &str, inbound: &[InboundAddress], problems: &mut Problems) -> Option<Registration> {
    const FLAG: &str = "--register";
    let (target, app) = match text.split_once('=') {
        Some((target, app)) => (target, Some(problems.address(FLAG, app)?)),
        None => (text, None),
    };
    let parts = target
        .split_once(':')
        .ok_or("it must be SERVICE:PORT or SERVICE:PORT=APP");
    let (service, port) = problems.check(FLAG, text, parts)?;
    let service_port = port.parse().ok().filter(|port| *port != 0);
    let service_port = problems.check(FLAG, text, service_port.ok_or("the port must be 1 to 65535"));
    let index = match app {
        Some(app) => inbound
            .iter()
            .position(|i| i.app == app)
            .ok_or("no --inbound leads to that application"),
        None if inbound.len() == 1 => Ok(0),
        None => Err("without exactly one --inbound, the application must be named (SERVICE:PORT=APP)"),
    };
    let index = problems.check(FLAG, text, index);
    let named = if is_dns_label(service) {
        Ok(())
    } else {
        Err("the Service's name must be a DNS label")
    };
    problems.check(FLAG, text, named)?;
    Some(Registration {
        service: service.to_owned(),
        service_port: service_port?,
        inbound: index?,
    })
}

fn is_dns_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn check_workload(args: &RunArgs, problems: &mut Problems) {
    const FLAG: &str = "--workload";
    match &args.workload {
        None if !args.inbound.is_empty() || args.captured_inbound.is_some() => {
            problems.add(
                FLAG,
                "",
                "a workload with --inbound or --captured-inbound needs a name",
            );
        }
        Some(name) if !name.split('.').all(is_dns_label) || name.len() > 253 => {
            problems.add(FLAG, name, "it must be a DNS name in lower case");
        }
        _ => {}
    }
}

fn labels(given: &[String], problems: &mut Problems) -> BTreeMap<String, String> {
    let pairs = given.iter().filter_map(|text| problems.pair("--label", text));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn health_check(text: &str, problems: &mut Problems) -> Option<HealthCheck> {
    const FLAG: &str = "--health-check";
    if text == "tcp" {
        return Some(HealthCheck::Tcp);
    }
    let url = text
        .strip_prefix("http://")
        .ok_or("it must be `tcp` or an http:// URL");
    let url = problems.check(FLAG, text, url)?;
    let (authority, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let with_port = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:{DEFAULT_PORT}")
    };
    let found = address(&with_port).ok_or("its host must be an IP address or localhost");
    let path = if path.is_empty() { "/" } else { path };
    let valid = path
        .parse::<http::uri::PathAndQuery>()
        .map(|path| path.to_string());
    let path = problems.check(FLAG, text, valid);
    Some(HealthCheck::Http {
        address: problems.check(FLAG, text, found)?,
        path: path?,
    })
}

fn choice<T: Copy>(
    flag: &'static str,
    text: &str,
    known: &[(&str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let found = known
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, value)| *value);
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    problems.check(
        flag,
        text,
        found.ok_or_else(|| format!("it must be one of {}", names.join(", "))),
    )
}

fn workers(text: Option<&str>, default: usize, problems: &mut Problems) -> Option<usize> {
    let Some(text) = text else { return Some(default) };
    let count = text
        .parse()
        .ok()
        .filter(|count| (1..=MAX_WORKERS).contains(count));
    problems.check(
        "--workers",
        text,
        count.ok_or_else(|| format!("it must be 1 to {MAX_WORKERS}")),
    )
}

fn drain_time(text: &str, problems: &mut Problems) -> Option<Duration> {
    let time = duration(text).filter(|time| *time <= MAX_DRAIN_TIME);
    problems.check(
        "--drain-time",
        text,
        time.ok_or("it must be a time such as 500ms, 30s or 5m, at most 1h"),
    )
}

/// A whole number and one of `ms`, `s`, `m`, `h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    number.checked_mul(unit).map(Duration::from_secs)
}
