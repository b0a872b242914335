//! A ruleset as `nft` writes it: `nft -f` loads this text, and gets the same rules.

use std::fmt;
use std::net::IpAddr;

use super::{Base, Chain, ChainKind, Condition, Hook, Rule, Ruleset, TABLE, Verdict};

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for (index, chain) in self.chains.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            chain.fmt(f)?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(base) = &self.base {
            writeln!(f, "\t\t{base}")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ChainKind::Nat => "nat",
            ChainKind::Filter => "filter",
        };
        let hook = match self.hook {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Output => "output",
        };
        write!(
            f,
            "type {kind} hook {hook} priority {}; policy accept;",
            self.priority
        )
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.conditions {
            write!(f, "{condition} ")?;
        }
        self.verdict.fmt(f)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::Uid(uid) => write!(f, "meta skuid {uid}"),
            // A class of the traffic control, written in two hexadecimal halves.
            Self::Priority(priority) => {
                write!(f, "meta priority {:x}:{:x}", priority >> 16, priority & 0xffff)
            }
            Self::ToSelf => f.write_str("oif \"lo\""),
            Self::FromNetwork => f.write_str("iif != \"lo\""),
            Self::Address(cidr) if cidr.prefix() == 0 => {
                let family = if cidr.address().is_ipv4() { "ipv4" } else { "ipv6" };
                write!(f, "meta nfproto {family}")
            }
            Self::Address(cidr) => match cidr.address() {
                IpAddr::V4(_) => write!(f, "ip daddr {cidr}"),
                IpAddr::V6(_) => write!(f, "ip6 daddr {cidr}"),
            },
            Self::Port(ports) => write!(f, "tcp dport {ports}"),
            Self::NotRedirected => f.write_str("ct status ! dnat"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::Reset => f.write_str("reject with tcp reset"),
        }
    }
}
