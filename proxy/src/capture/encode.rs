//! A ruleset -> one batch of `nf_tables` messages: all of it takes effect at once, or nothing.
//!
//! Each condition becomes the expressions that `nft` makes of
//! the same text, so that `nft list` shows the text again; a test compares the two in a real kernel.

use std::net::IpAddr;

use weft_proxy_core::capture::{
    Base, Chain, ChainKind, Condition, Hook, PortRange, Rule, Ruleset, TABLE, Verdict,
};
use weft_proxy_core::cidr::Cidr;

use super::numbers::{ACK, APPEND, CREATE, DUMP, INET, REQUEST, SUBSYSTEM, attribute as at, kind, value};
use super::wire::{Head, Writer};

/// A batch, and what its messages are for: an answer names a message by its place.
#[derive(Debug)]
pub(super) struct Batch {
    /// All messages.
    pub(super) bytes: Vec<u8>,
    /// In the order of the messages, whose sequence numbers begin at 0.
    pub(super) purposes: Vec<String>,
    /// The message that is acknowledged once all is done.
    pub(super) acknowledged: u32,
}

/// Puts `ruleset` in the place of whatever the table held.
pub(super) fn replace(ruleset: &Ruleset) -> Batch {
    let mut batch = Builder::default();
    batch.table(kind::NEW_TABLE, CREATE); // so that there is one to delete
    batch.table(kind::DELETE_TABLE, 0);
    batch.table(kind::NEW_TABLE, CREATE);
    for chain in &ruleset.chains {
        batch.chain(chain);
    }
    for chain in &ruleset.chains {
        for rule in &chain.rules {
            batch.rule(&chain.name, rule);
        }
    }
    batch.finish()
}

/// Takes the table away, or does nothing where there is none.
pub(super) fn remove() -> Batch {
    let mut batch = Builder::default();
    batch.table(kind::NEW_TABLE, CREATE);
    batch.table(kind::DELETE_TABLE, 0);
    batch.finish()
}

/// Asks for everything of one kind that the family has.
pub(super) fn list(kind: u16) -> Batch {
    let mut writer = Writer::default();
    let head = Head {
        kind: SUBSYSTEM << 8 | kind,
        flags: REQUEST | DUMP,
        sequence: 0,
        family: INET,
        resource: 0,
    };
    writer.message(head, |_| {});
    Batch {
        bytes: writer.into_bytes(),
        purposes: vec!["list of rules".to_owned()],
        acknowledged: 0,
    }
}

#[derive(Debug)]
struct Builder {
    writer: Writer,
    purposes: Vec<String>,
}

impl Default for Builder {
    fn default() -> Self {
        let mut builder = Self {
            writer: Writer::default(),
            purposes: Vec::new(),
        };
        builder.edge(kind::BEGIN, 0);
        builder
    }
}

impl Builder {
    /// The next message's sequence number.
    fn next(&mut self, purpose: String) -> u32 {
        self.purposes.push(purpose);
        u32::try_from(self.purposes.len() - 1).unwrap_or(u32::MAX)
    }

    fn edge(&mut self, kind: u16, flags: u16) {
        let head = Head {
            kind,
            flags: REQUEST | flags,
            sequence: self.next("the whole".to_owned()),
            family: 0,
            resource: SUBSYSTEM,
        };
        self.writer.message(head, |_| {});
    }

    fn message(&mut self, kind: u16, flags: u16, purpose: String, write: impl FnOnce(&mut Writer)) {
        let head = Head {
            kind: SUBSYSTEM << 8 | kind,
            flags: REQUEST | flags,
            sequence: self.next(purpose),
            family: INET,
            resource: 0,
        };
        self.writer.message(head, write);
    }

    fn table(&mut self, kind: u16, flags: u16) {
        self.message(kind, flags, format!("table inet {TABLE}"), |writer| {
            writer.text(at::TABLE_NAME, TABLE);
        });
    }

    fn chain(&mut self, chain: &Chain) {
        let purpose = format!("chain {}", chain.name);
        self.message(kind::NEW_CHAIN, CREATE, purpose, |writer| {
            writer.text(at::CHAIN_TABLE, TABLE);
            writer.text(at::CHAIN_NAME, &chain.name);
            if let Some(base) = chain.base {
                write_base(writer, base);
            }
        });
    }

    fn rule(&mut self, chain: &str, rule: &Rule) {
        let purpose = format!("rule `{rule}` of chain {chain}");
        self.message(kind::NEW_RULE, CREATE | APPEND, purpose, |writer| {
            writer.text(at::RULE_TABLE, TABLE);
            writer.text(at::RULE_CHAIN, chain);
            writer.nested(at::RULE_EXPRESSIONS, |writer| {
                for condition in &rule.conditions {
                    write_condition(writer, *condition);
                }
                write_verdict(writer, &rule.verdict);
            });
        });
    }

    fn finish(mut self) -> Batch {
        let acknowledged = u32::try_from(self.purposes.len() - 1).unwrap_or(u32::MAX);
        self.writer.add_flags(ACK);
        self.edge(kind::END, 0);
        Batch {
            bytes: self.writer.into_bytes(),
            purposes: self.purposes,
            acknowledged,
        }
    }
}

fn write_base(writer: &mut Writer, base: Base) {
    let hook = match base.hook {
        Hook::Prerouting => value::PREROUTING,
        Hook::Input => value::INPUT,
        Hook::Output => value::OUTPUT,
    };
    let kind = match base.kind {
        ChainKind::Nat => "nat",
        ChainKind::Filter => "filter",
    };
    writer.nested(at::CHAIN_HOOK, |writer| {
        writer.number(at::HOOK_NUMBER, hook);
        writer.number(at::HOOK_PRIORITY, base.priority.cast_unsigned());
    });
    writer.number(at::CHAIN_POLICY, value::ACCEPT);
    writer.text(at::CHAIN_TYPE, kind);
}

fn write_condition(writer: &mut Writer, condition: Condition) {
    match condition {
        Condition::Tcp => meta(writer, value::PROTOCOL, value::EQUAL, &[value::TCP]),
        Condition::Uid(uid) => meta(writer, value::UID, value::EQUAL, &uid.to_ne_bytes()),
        Condition::Priority(priority) => {
            meta(writer, value::PRIORITY, value::EQUAL, &priority.to_ne_bytes());
        }
        Condition::ToSelf => {
            let loopback = value::LOOPBACK.to_ne_bytes();
            meta(writer, value::OUT_INTERFACE, value::EQUAL, &loopback);
        }
        Condition::FromNetwork => {
            let loopback = value::LOOPBACK.to_ne_bytes();
            meta(writer, value::IN_INTERFACE, value::NOT_EQUAL, &loopback);
        }
        Condition::Address(cidr) => write_address(writer, cidr),
        Condition::Port(ports) => write_ports(writer, ports),
        Condition::NotRedirected => {
            load(writer, "ct", value::STATUS);
            mask(writer, &value::REDIRECTED.to_ne_bytes());
            compare(writer, value::EQUAL, &[0; 4]);
        }
    }
}

fn write_address(writer: &mut Writer, cidr: Cidr) {
    let (family, offset, address, bits) = match (cidr.address(), cidr.mask()) {
        (IpAddr::V4(address), IpAddr::V4(bits)) => {
            let (address, bits) = (address.octets().to_vec(), bits.octets().to_vec());
            (value::IPV4, value::IPV4_DESTINATION, address, bits)
        }
        (address, bits) => {
            let octets = |ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            (
                value::IPV6,
                value::IPV6_DESTINATION,
                octets(address),
                octets(bits),
            )
        }
    };
    meta(writer, value::FAMILY, value::EQUAL, &[family]);
    if cidr.prefix() == 0 {
        return;
    }
    let length = u32::try_from(address.len()).unwrap_or_default();
    payload(writer, value::NETWORK_HEADER, offset, length);
    if bits.iter().any(|octet| *octet != u8::MAX) {
        mask(writer, &bits);
    }
    compare(writer, value::EQUAL, &address);
}

fn write_ports(writer: &mut Writer, ports: PortRange) {
    meta(writer, value::PROTOCOL, value::EQUAL, &[value::TCP]);
    payload(writer, value::TRANSPORT_HEADER, value::PORT, 2);
    if ports.first() == ports.last() {
        return compare(writer, value::EQUAL, &ports.first().to_be_bytes());
    }
    compare(writer, value::AT_LEAST, &ports.first().to_be_bytes());
    compare(writer, value::AT_MOST, &ports.last().to_be_bytes());
}

fn write_verdict(writer: &mut Writer, verdict: &Verdict) {
    match verdict {
        Verdict::Accept => decide(writer, value::ACCEPT, None),
        Verdict::Goto(chain) => decide(writer, value::GOTO, Some(chain)),
        Verdict::Redirect(port) => {
            expression(writer, "immediate", |writer| {
                writer.number(at::IMMEDIATE_REGISTER, value::REGISTER);
                data(writer, at::IMMEDIATE_DATA, &port.to_be_bytes());
            });
            expression(writer, "redir", |writer| {
                writer.number(at::REDIRECT_PORT, value::REGISTER);
                writer.number(at::REDIRECT_FLAGS, value::PORT_GIVEN);
            });
        }
        Verdict::Reset => expression(writer, "reject", |writer| {
            writer.number(at::REJECT_TYPE, value::RESET);
            writer.bytes(at::REJECT_CODE, &[0]);
        }),
    }
}

fn expression(writer: &mut Writer, name: &str, write: impl FnOnce(&mut Writer)) {
    writer.nested(at::ELEMENT, |writer| {
        writer.text(at::EXPRESSION_NAME, name);
        writer.nested(at::EXPRESSION_DATA, write);
    });
}

fn data(writer: &mut Writer, kind: u16, bytes: &[u8]) {
    writer.nested(kind, |writer| writer.bytes(at::DATA_VALUE, bytes));
}

fn load(writer: &mut Writer, expression_name: &str, key: u32) {
    expression(writer, expression_name, |writer| {
        writer.number(at::LOAD_REGISTER, value::REGISTER);
        writer.number(at::LOAD_KEY, key);
    });
}

fn meta(writer: &mut Writer, key: u32, operation: u32, bytes: &[u8]) {
    load(writer, "meta", key);
    compare(writer, operation, bytes);
}

fn payload(writer: &mut Writer, base: u32, offset: u32, length: u32) {
    expression(writer, "payload", |writer| {
        writer.number(at::PAYLOAD_REGISTER, value::REGISTER);
        writer.number(at::PAYLOAD_BASE, base);
        writer.number(at::PAYLOAD_OFFSET, offset);
        writer.number(at::PAYLOAD_LENGTH, length);
    });
}

fn mask(writer: &mut Writer, bits: &[u8]) {
    expression(writer, "bitwise", |writer| {
        writer.number(at::BITWISE_SOURCE, value::REGISTER);
        writer.number(at::BITWISE_REGISTER, value::REGISTER);
        writer.number(at::BITWISE_LENGTH, u32::try_from(bits.len()).unwrap_or_default());
        data(writer, at::BITWISE_MASK, bits);
        data(writer, at::BITWISE_XOR, &vec![0; bits.len()]);
    });
}

fn compare(writer: &mut Writer, operation: u32, bytes: &[u8]) {
    expression(writer, "cmp", |writer| {
        writer.number(at::COMPARE_REGISTER, value::REGISTER);
        writer.number(at::COMPARE_OPERATION, operation);
        data(writer, at::COMPARE_DATA, bytes);
    });
}

fn decide(writer: &mut Writer, code: u32, chain: Option<&str>) {
    expression(writer, "immediate", |writer| {
        writer.number(at::IMMEDIATE_REGISTER, value::VERDICT_REGISTER);
        writer.nested(at::IMMEDIATE_DATA, |writer| {
            writer.nested(at::DATA_VERDICT, |writer| {
                writer.number(at::VERDICT_CODE, code);
                if let Some(chain) = chain {
                    writer.text(at::VERDICT_CHAIN, chain);
                }
            });
        });
    });
}
