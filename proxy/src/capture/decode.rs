//! What the kernel holds -> a ruleset: the way back of the encoding.
//!
//! Only what we write is understood. Anything else in the table was put there by somebody else, or by another version,
//! and is said to be so instead of being shown as something that it isn't.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_proxy_core::capture::{Base, Chain, ChainKind, Condition, Hook, PortRange, Rule, TABLE, Verdict};
use weft_proxy_core::cidr::Cidr;

use super::numbers::{attribute as at, value};
use super::wire::Attributes;

/// An expression of a rule, as far as we write it.
#[derive(Clone, Copy, Debug)]
enum Expression<'a> {
    /// A property of the packet is loaded.
    Meta(u32),
    /// The connection's status is loaded.
    Status,
    /// A part of a header is loaded: which header, from where, how much.
    Payload(u32, u32, u32),
    /// What was loaded is masked.
    Mask(&'a [u8]),
    /// What was loaded is compared.
    Compare(u32, &'a [u8]),
    /// A value is loaded.
    Value(&'a [u8]),
    /// The packet's fate.
    Decide(u32, Option<&'a str>),
    /// To the port that was loaded.
    Redirect,
    /// A reset.
    Reset,
}

/// A chain of our table, without its rules. `None`: it is another table's, or none that we write.
pub(super) fn chain(attributes: &Attributes<'_>) -> Option<Chain> {
    if attributes.text(at::CHAIN_TABLE) != Some(TABLE) {
        return None;
    }
    let base = match attributes.inside(at::CHAIN_HOOK) {
        None => None,
        Some(hook) => Some(base(attributes, &hook)?),
    };
    Some(Chain {
        name: attributes.text(at::CHAIN_NAME)?.to_owned(),
        base,
        rules: Vec::new(),
    })
}

fn base(chain: &Attributes<'_>, hook: &Attributes<'_>) -> Option<Base> {
    let kind = match chain.text(at::CHAIN_TYPE)? {
        "nat" => ChainKind::Nat,
        "filter" => ChainKind::Filter,
        _ => return None,
    };
    let priority = hook.number(at::HOOK_PRIORITY)?.cast_signed();
    let hook = match hook.number(at::HOOK_NUMBER)? {
        value::PREROUTING => Hook::Prerouting,
        value::INPUT => Hook::Input,
        value::OUTPUT => Hook::Output,
        _ => return None,
    };
    Some(Base { kind, hook, priority })
}

/// The chain that a rule belongs to, and the rule, if we write such ones. `None`: it is another table's.
pub(super) fn rule<'a>(attributes: &Attributes<'a>) -> Option<(&'a str, Option<Rule>)> {
    if attributes.text(at::RULE_TABLE) != Some(TABLE) {
        return None;
    }
    let chain = attributes.text(at::RULE_CHAIN)?;
    let expressions = attributes.inside(at::RULE_EXPRESSIONS).map(|list| {
        let each = list.map(|(_, element)| expression(&Attributes(element)));
        each.collect::<Option<Vec<_>>>()
    });
    Some((chain, expressions.flatten().and_then(|list| meaning(&list))))
}

fn expression<'a>(element: &Attributes<'a>) -> Option<Expression<'a>> {
    let data = element.inside(at::EXPRESSION_DATA)?;
    let bytes = |kind| data.inside(kind)?.find(at::DATA_VALUE);
    Some(match element.text(at::EXPRESSION_NAME)? {
        "meta" => Expression::Meta(data.number(at::LOAD_KEY)?),
        "ct" if data.number(at::LOAD_KEY) == Some(value::STATUS) => Expression::Status,
        "payload" => Expression::Payload(
            data.number(at::PAYLOAD_BASE)?,
            data.number(at::PAYLOAD_OFFSET)?,
            data.number(at::PAYLOAD_LENGTH)?,
        ),
        "bitwise" => Expression::Mask(bytes(at::BITWISE_MASK)?),
        "cmp" => Expression::Compare(data.number(at::COMPARE_OPERATION)?, bytes(at::COMPARE_DATA)?),
        "immediate" => match data.inside(at::IMMEDIATE_DATA)?.inside(at::DATA_VERDICT) {
            Some(verdict) => {
                Expression::Decide(verdict.number(at::VERDICT_CODE)?, verdict.text(at::VERDICT_CHAIN))
            }
            None => Expression::Value(bytes(at::IMMEDIATE_DATA)?),
        },
        "redir" => Expression::Redirect,
        "reject" if data.number(at::REJECT_TYPE) == Some(value::RESET) => Expression::Reset,
        _ => return None,
    })
}

fn meaning(mut expressions: &[Expression<'_>]) -> Option<Rule> {
    let mut conditions = Vec::new();
    loop {
        if let Some(verdict) = verdict(expressions) {
            return Some(Rule { conditions, verdict });
        }
        let (condition, length) = condition(expressions)?;
        conditions.push(condition);
        expressions = &expressions[length..];
    }
}

fn verdict(expressions: &[Expression<'_>]) -> Option<Verdict> {
    match expressions {
        [Expression::Decide(value::ACCEPT, None)] => Some(Verdict::Accept),
        [Expression::Decide(value::GOTO, Some(chain))] => Some(Verdict::Goto((*chain).to_owned())),
        [Expression::Value(port), Expression::Redirect] => {
            Some(Verdict::Redirect(u16::from_be_bytes((*port).try_into().ok()?)))
        }
        [Expression::Reset] => Some(Verdict::Reset),
        _ => None,
    }
}

/// The condition that `expressions` begin with, and how many of them it is.
fn condition(expressions: &[Expression<'_>]) -> Option<(Condition, usize)> {
    use Expression::{Compare, Mask, Meta, Payload, Status};
    const EQUAL: u32 = value::EQUAL;
    let native = |bytes: &[u8]| Some(u32::from_ne_bytes(bytes.try_into().ok()?));
    Some(match expressions {
        [
            Meta(value::PROTOCOL),
            Compare(EQUAL, [value::TCP]),
            Payload(value::TRANSPORT_HEADER, value::PORT, 2),
            rest @ ..,
        ] => {
            let (ports, length) = ports(rest)?;
            (Condition::Port(ports), 3 + length)
        }
        [Meta(value::PROTOCOL), Compare(EQUAL, [value::TCP]), ..] => (Condition::Tcp, 2),
        [Meta(value::UID), Compare(EQUAL, uid), ..] => (Condition::Uid(native(uid)?), 2),
        [Meta(value::PRIORITY), Compare(EQUAL, priority), ..] => (Condition::Priority(native(priority)?), 2),
        [Meta(value::OUT_INTERFACE), Compare(EQUAL, index), ..] if native(index) == Some(value::LOOPBACK) => {
            (Condition::ToSelf, 2)
        }
        [Meta(value::IN_INTERFACE), Compare(value::NOT_EQUAL, index), ..]
            if native(index) == Some(value::LOOPBACK) =>
        {
            (Condition::FromNetwork, 2)
        }
        [Meta(value::FAMILY), Compare(EQUAL, [family]), rest @ ..] => {
            let (cidr, length) = address(*family, rest)?;
            (Condition::Address(cidr), 2 + length)
        }
        [Status, Mask(bits), Compare(EQUAL, [0, 0, 0, 0]), ..] if native(bits) == Some(value::REDIRECTED) => {
            (Condition::NotRedirected, 3)
        }
        _ => return None,
    })
}

fn ports(expressions: &[Expression<'_>]) -> Option<(PortRange, usize)> {
    let number = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.try_into().ok()?));
    match expressions {
        [Expression::Compare(value::EQUAL, port), ..] => {
            let port = number(port)?;
            Some((PortRange::new(port, port)?, 1))
        }
        [
            Expression::Compare(value::AT_LEAST, first),
            Expression::Compare(value::AT_MOST, last),
            ..,
        ] => Some((PortRange::new(number(first)?, number(last)?)?, 2)),
        _ => None,
    }
}

fn address(family: u8, expressions: &[Expression<'_>]) -> Option<(Cidr, usize)> {
    use Expression::{Compare, Mask, Payload};
    let offset = match family {
        value::IPV4 => value::IPV4_DESTINATION,
        value::IPV6 => value::IPV6_DESTINATION,
        _ => return None,
    };
    match expressions {
        [
            Payload(value::NETWORK_HEADER, from, _),
            Mask(bits),
            Compare(value::EQUAL, octets),
            ..,
        ] if *from == offset => {
            let prefix: u32 = bits.iter().map(|octet| octet.leading_ones()).sum();
            Some((Cidr::new(ip(family, octets)?, u8::try_from(prefix).ok()?)?, 3))
        }
        [
            Payload(value::NETWORK_HEADER, from, _),
            Compare(value::EQUAL, octets),
            ..,
        ] if *from == offset => {
            let prefix = if family == value::IPV4 { 32 } else { 128 };
            Some((Cidr::new(ip(family, octets)?, prefix)?, 2))
        }
        _ if family == value::IPV4 => Some((Cidr::new(Ipv4Addr::UNSPECIFIED.into(), 0)?, 0)),
        _ => Some((Cidr::new(Ipv6Addr::UNSPECIFIED.into(), 0)?, 0)),
    }
}

fn ip(family: u8, octets: &[u8]) -> Option<IpAddr> {
    if family == value::IPV4 {
        Some(IpAddr::V4(<[u8; 4]>::try_from(octets).ok()?.into()))
    } else {
        Some(IpAddr::V6(<[u8; 16]>::try_from(octets).ok()?.into()))
    }
}

#[cfg(test)]
mod tests {
    use weft_proxy_core::capture::{Options, Ruleset, cidrs, ports};

    use super::super::encode;
    use super::super::numbers::{SUBSYSTEM, kind};
    use super::super::wire::Messages;
    use super::*;

    /// Reads back what a batch says.
    fn read(bytes: &[u8]) -> Ruleset {
        let mut chains: Vec<Chain> = Vec::new();
        for message in Messages(bytes) {
            if message.kind == SUBSYSTEM << 8 | kind::NEW_CHAIN {
                chains.push(chain(&message.attributes()).unwrap());
            } else if message.kind == SUBSYSTEM << 8 | kind::NEW_RULE {
                let (of, rule) = rule(&message.attributes()).unwrap();
                let chain = chains.iter_mut().find(|chain| chain.name == of).unwrap();
                chain.rules.push(rule.unwrap());
            }
        }
        Ruleset { chains }
    }

    #[test]
    fn every_ruleset_is_read_as_it_was_written() {
        let full = Options {
            skip_inbound_ports: ports("22,9000-9010").unwrap(),
            skip_outbound_ports: ports("3306,1-65535").unwrap(),
            skip_outbound_cidrs: cidrs("0.0.0.0/0,::/0,10.0.0.0/8,10.1.2.3,fd00::/33,fd00::1").unwrap(),
            ..Options::default()
        };
        for options in [Options::default(), full] {
            let ruleset = Ruleset::new(&options).unwrap();
            assert_eq!(read(&encode::replace(&ruleset).bytes), ruleset);
        }
    }

    #[test]
    fn what_somebody_else_wrote_is_not_taken_for_ours() {
        for expressions in [
            &[][..],
            &[Expression::Decide(0, None)],
            &[Expression::Decide(value::ACCEPT, None), Expression::Reset],
            &[Expression::Meta(3), Expression::Decide(value::ACCEPT, None)],
            &[Expression::Value(&[1]), Expression::Redirect],
            &[
                Expression::Meta(value::UID),
                Expression::Compare(value::EQUAL, &[1]),
                Expression::Reset,
            ],
        ] {
            assert_eq!(meaning(expressions), None, "{expressions:?}");
        }
    }
}
