//! Which connections of a pod go through its proxy, as packet filter rules: from options to a [`Ruleset`], pure.
//!
//! One table of our own ([`TABLE`], family `inet`: IPv4 and IPv6 alike), so that replacing and removing it touches
//! nothing else:
//!
//! ```text
//! application ─▶ outbound (NAT, output)     ─ excluded address or port, own addresses ─▶ as it is
//!                                           └ all other TCP ─▶ the proxy's captured outbound port
//! proxy       ─▶ outbound ─ to others ─▶ as it is
//!                         └ to its own pod ─▶ own ─ to the application ─▶ as it is
//!                                                 └ mTLS ─▶ taken, as if it came from outside
//! network     ─▶ inbound (NAT, prerouting)  ─▶ taken ─ excluded port, own ports ─▶ as it is
//!                                                    └ all other TCP ─▶ the proxy's captured inbound port
//! network     ─▶ guard (filter, input) ─ a proxy's port that nothing was redirected to ─▶ reset
//! ```
//!
//! A pod that calls itself through a Service gets an endpoint that is itself. The proxy connects to it like to any other,
//! over loopback, where prerouting never looks; so `own` leads that connection to the inbound port. What the inbound side
//! sends on to the application goes the same way and must not come back: it carries [`TO_APPLICATION`], a socket
//! priority, which unlike a mark needs no privilege. What an application sends to its own pod's addresses directly
//! never leaves the pod and is left alone.

use std::fmt;
use std::str::FromStr;

use crate::cidr::{Cidr, CidrError, LOOPBACK};

mod text;

/// The name of the table.
pub const TABLE: &str = "weft";

/// The uid that the proxy runs as.
pub const PROXY_UID: u32 = 2102;

/// Socket priority (`SO_PRIORITY`) of connections that the proxy makes to the application in plaintext. Queues treat
/// it like the default priority (tc-prio(8)), so that it matters to our rules only.
pub const TO_APPLICATION: u32 = 4;

/// The captured outbound port.
pub const OUTBOUND_PORT: u16 = 15001;

/// The captured inbound port.
pub const INBOUND_PORT: u16 = 15006;

/// The explicit outbound port, on loopback.
pub const EXPLICIT_PORT: u16 = 15002;

/// The admin listener, on loopback.
pub const ADMIN_PORT: u16 = 15000;

/// The status listener, which kubelet and Prometheus ask.
pub const STATUS_PORT: u16 = 15020;

/// Most entries of one list.
pub const MAX_ENTRIES: usize = 64;

/// `NF_IP_PRI_NAT_DST`: where destination NAT belongs.
const PRIORITY_NAT: i32 = -100;
/// `NF_IP_PRI_FILTER`.
const PRIORITY_FILTER: i32 = 0;

/// Chains.
const OUTBOUND: &str = "outbound";
const OWN: &str = "own";
const INBOUND: &str = "inbound";
const TAKEN: &str = "taken";
const GUARD: &str = "guard";

/// What is captured, and what isn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whose connections are not captured.
    pub proxy_uid: u32,
    /// Where outbound connections are led to.
    pub outbound_port: u16,
    /// Where inbound connections are led to.
    pub inbound_port: u16,
    /// Inbound connections to these are left alone.
    pub skip_inbound_ports: Vec<PortRange>,
    /// Outbound connections to these are left alone.
    pub skip_outbound_ports: Vec<PortRange>,
    /// Outbound connections to these are left alone.
    pub skip_outbound_cidrs: Vec<Cidr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            proxy_uid: PROXY_UID,
            outbound_port: OUTBOUND_PORT,
            inbound_port: INBOUND_PORT,
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_outbound_cidrs: Vec::new(),
        }
    }
}

/// Why capture can't be set up as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A port or a range of them.
    #[error("`{0}` is neither a port (1 to 65535) nor a range of ports such as 8000-8010")]
    Port(String),
    /// A block of addresses.
    #[error("`{0}`: {1}")]
    Cidr(String, CidrError),
    /// Too long a list.
    #[error(
        "{0} entries are too many; {MAX_ENTRIES} are allowed, and a range or a wider block counts as one"
    )]
    TooMany(usize),
    /// Both directions led to one port.
    #[error("outbound and inbound connections can't be led to the same port {0}")]
    SamePort(u16),
    /// Port 0.
    #[error("a connection can't be led to port 0")]
    NoPort,
    /// Root is not the proxy.
    #[error("the proxy can't be told from the application by uid 0; it needs a uid of its own")]
    Root,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// 1 or more.
    first: u16,
    /// Not less than `first`.
    last: u16,
}

impl PortRange {
    /// The range from `first` to `last`. `None`: there is no such range.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// The first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is in it.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

impl FromStr for PortRange {
    type Err = OptionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| plain)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = number(first).zip(number(last));
        range
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or_else(|| OptionsError::Port(shortened(text)))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Reads a list of ports and ranges, separated by commas; white space around them and an empty list are fine.
pub fn ports(text: &str) -> Result<Vec<PortRange>, OptionsError> {
    list(text, str::parse)
}

/// Reads a list of address blocks, separated by commas.
pub fn cidrs(text: &str) -> Result<Vec<Cidr>, OptionsError> {
    let cidr = |text: &str| {
        text.parse()
            .map_err(|error| OptionsError::Cidr(shortened(text), error))
    };
    list(text, cidr)
}

/// Sorted, without doubles.
fn list<T: Ord>(text: &str, read: impl Fn(&str) -> Result<T, OptionsError>) -> Result<Vec<T>, OptionsError> {
    let entries: Vec<&str> = text.split(',').map(str::trim).collect();
    if entries == [""] {
        return Ok(Vec::new());
    }
    if entries.len() > MAX_ENTRIES {
        return Err(OptionsError::TooMany(entries.len()));
    }
    let mut read: Vec<T> = entries.into_iter().map(read).collect::<Result<_, _>>()?;
    read.sort_unstable();
    read.dedup();
    Ok(read)
}

/// What a message repeats of what somebody wrote.
fn shortened(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// The rules, complete: the content of [`TABLE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// A chain may be reached from an earlier one.
    pub chains: Vec<Chain>,
}

/// Rules in their order; the first whose conditions all hold decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Unique in its table.
    pub name: String,
    /// Where packets come from; `None`: only from other chains.
    pub base: Option<Base>,
    /// The rules; a packet that none decides passes.
    pub rules: Vec<Rule>,
}

/// Where in the network stack a chain sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What it may do.
    pub kind: ChainKind,
    /// When.
    pub hook: Hook,
    /// Smaller is earlier.
    pub priority: i32,
}

/// What the rules of a chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Change addresses; sees the first packet of each connection only.
    Nat,
    /// Drop packets.
    Filter,
}

/// A place in the network stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What comes from the network, before routing.
    Prerouting,
    /// What is for this host.
    Input,
    /// What this host sends.
    Output,
}

/// What happens to packets that meet all conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// What happens then.
    pub verdict: Verdict,
}

/// A condition on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is TCP.
    Tcp,
    /// A process of this uid sends it.
    Uid(u32),
    /// Its socket has this priority.
    Priority(u32),
    /// It leaves over loopback: it goes to an address of this host.
    ToSelf,
    /// It came from the network.
    FromNetwork,
    /// It goes to this block.
    Address(Cidr),
    /// It is TCP and goes to one of these ports.
    Port(PortRange),
    /// Its connection was not redirected.
    NotRedirected,
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes as it is.
    Accept,
    /// The rules of this chain decide.
    Goto(String),
    /// Its connection goes to this port of this host.
    Redirect(u16),
    /// Its connection is refused by a reset.
    Reset,
}

impl Ruleset {
    /// The rules that do what `options` say.
    pub fn new(options: &Options) -> Result<Self, OptionsError> {
        check(options)?;
        Ok(Self {
            chains: vec![
                chain(OUTBOUND, Some((ChainKind::Nat, Hook::Output)), outbound(options)),
                chain(OWN, None, own()),
                chain(INBOUND, Some((ChainKind::Nat, Hook::Prerouting)), inbound()),
                chain(TAKEN, None, taken(options)),
                chain(GUARD, Some((ChainKind::Filter, Hook::Input)), guard(options)),
            ],
        })
    }
}

fn check(options: &Options) -> Result<(), OptionsError> {
    let lists = [
        options.skip_inbound_ports.len(),
        options.skip_outbound_ports.len(),
        options.skip_outbound_cidrs.len(),
    ];
    if let Some(long) = lists.into_iter().find(|length| *length > MAX_ENTRIES) {
        return Err(OptionsError::TooMany(long));
    }
    if options.proxy_uid == 0 {
        return Err(OptionsError::Root);
    }
    match (options.outbound_port, options.inbound_port) {
        (0, _) | (_, 0) => Err(OptionsError::NoPort),
        (outbound, inbound) if outbound == inbound => Err(OptionsError::SamePort(outbound)),
        _ => Ok(()),
    }
}

fn chain(name: &str, base: Option<(ChainKind, Hook)>, rules: Vec<Rule>) -> Chain {
    let base = base.map(|(kind, hook)| Base {
        kind,
        hook,
        priority: match kind {
            ChainKind::Nat => PRIORITY_NAT,
            ChainKind::Filter => PRIORITY_FILTER,
        },
    });
    Chain {
        name: name.to_owned(),
        base,
        rules,
    }
}

fn rule(conditions: &[Condition], verdict: Verdict) -> Rule {
    Rule {
        conditions: conditions.to_vec(),
        verdict,
    }
}

fn accept(conditions: &[Condition]) -> Rule {
    rule(conditions, Verdict::Accept)
}

fn outbound(options: &Options) -> Vec<Rule> {
    let proxy = Condition::Uid(options.proxy_uid);
    let mut rules = vec![
        rule(&[proxy, Condition::ToSelf], Verdict::Goto(OWN.to_owned())),
        accept(&[proxy]),
        accept(&[Condition::ToSelf]),
    ];
    let cidrs = options.skip_outbound_cidrs.iter();
    rules.extend(cidrs.map(|cidr| accept(&[Condition::Address(*cidr)])));
    let ports = options.skip_outbound_ports.iter();
    rules.extend(ports.map(|port| accept(&[Condition::Port(*port)])));
    rules.push(rule(&[Condition::Tcp], Verdict::Redirect(options.outbound_port)));
    rules
}

/// The proxy's connections to addresses of its own pod.
fn own() -> Vec<Rule> {
    let mut rules = vec![accept(&[Condition::Priority(TO_APPLICATION)])];
    rules.extend(LOOPBACK.map(|cidr| accept(&[Condition::Address(cidr)])));
    rules.push(rule(&[], Verdict::Goto(TAKEN.to_owned())));
    rules
}

fn inbound() -> Vec<Rule> {
    vec![rule(&[], Verdict::Goto(TAKEN.to_owned()))]
}

/// TCP connections to this pod, from outside or from its own proxy.
fn taken(options: &Options) -> Vec<Rule> {
    let own = private_ports(options).into_iter().chain([STATUS_PORT]);
    let skipped = own
        .map(PortRange::one)
        .chain(options.skip_inbound_ports.iter().copied());
    let mut rules: Vec<Rule> = skipped.map(|port| accept(&[Condition::Port(port)])).collect();
    rules.push(rule(&[Condition::Tcp], Verdict::Redirect(options.inbound_port)));
    rules
}

/// Nobody outside has any business with the proxy's own ports: what is meant for them was redirected there.
fn guard(options: &Options) -> Vec<Rule> {
    let ports = private_ports(options).into_iter().map(PortRange::one);
    ports
        .map(|port| {
            let conditions = [
                Condition::FromNetwork,
                Condition::Port(port),
                Condition::NotRedirected,
            ];
            rule(&conditions, Verdict::Reset)
        })
        .collect()
}

/// The proxy's ports that nobody outside may reach.
fn private_ports(options: &Options) -> [u16; 4] {
    [
        ADMIN_PORT,
        options.outbound_port,
        EXPLICIT_PORT,
        options.inbound_port,
    ]
}

#[cfg(test)]
mod tests;
