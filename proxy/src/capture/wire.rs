//! Netlink on the wire: messages of attributes, as netlink(7) and `linux/netfilter/nfnetlink.h` have them.
//!
//! Headers are in the byte order of the machine, the values of `nf_tables`' attributes in network order.

/// Length of a message's header (`struct nlmsghdr`).
const MESSAGE_HEADER: usize = 16;
/// Length of the header that follows it in every netfilter message (`struct nfgenmsg`).
const FAMILY_HEADER: usize = 4;
/// Length of an attribute's header (`struct nlattr`).
const ATTRIBUTE_HEADER: usize = 4;
/// Messages and attributes begin at multiples of this.
const ALIGNMENT: usize = 4;
/// `NLA_F_NESTED`: the attribute's value is attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that say what it is (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;

/// What a message is, before its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Subsystem and kind, or one of netlink's own.
    pub(super) kind: u16,
    /// `NLM_F_*`.
    pub(super) flags: u16,
    /// Echoed by answers.
    pub(super) sequence: u32,
    /// `NFPROTO_*`.
    pub(super) family: u8,
    /// The resource, in the messages around a batch.
    pub(super) resource: u16,
}

/// Messages on their way to the kernel.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    /// Where the last message begins.
    last: usize,
}

impl Writer {
    /// Everything that was written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes a message with the attributes that `write` writes.
    pub(super) fn message(&mut self, head: Head, write: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.last = start;
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(head.kind.to_ne_bytes());
        self.bytes.extend(head.flags.to_ne_bytes());
        self.bytes.extend(head.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([head.family, 0]);
        self.bytes.extend(head.resource.to_be_bytes());
        write(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds flags to the last message.
    pub(super) fn add_flags(&mut self, flags: u16) {
        let at = self.last + 6;
        if let Some(old) = native_u16(&self.bytes, at) {
            self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
        }
    }

    /// Writes an attribute of raw bytes.
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |writer| writer.bytes.extend(value));
    }

    /// Writes a text, which ends with a zero on the wire.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |writer| {
            writer.bytes.extend(value.as_bytes());
            writer.bytes.push(0);
        });
    }

    /// Writes a number.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Writes an attribute of the attributes that `write` writes.
    pub(super) fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, write);
    }

    fn attribute(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend(0_u16.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        write(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    /// Subsystem and kind, or one of netlink's own.
    pub(super) kind: u16,
    /// What it answers.
    pub(super) sequence: u32,
    /// Everything behind the header.
    pub(super) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes of a netfilter message.
    pub(super) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.body.get(FAMILY_HEADER..).unwrap_or_default())
    }
}

/// The messages of a datagram; ends at the first one that is cut off.
#[derive(Debug)]
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::try_from(native_u32(self.0, 0)?).ok()?;
        let message = Message {
            kind: native_u16(self.0, 4)?,
            sequence: native_u32(self.0, 8)?,
            body: self.0.get(MESSAGE_HEADER..length)?,
        };
        self.0 = self
            .0
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        Some(message)
    }
}

/// An attribute: what it is, and its value.
pub(super) type Attribute<'a> = (u16, &'a [u8]);

/// Attributes in a row; ends at the first one that is cut off.
#[derive(Clone, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this kind.
    pub(super) fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone()
            .find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The attributes inside the first one of this kind.
    pub(super) fn inside(&self, kind: u16) -> Option<Self> {
        self.find(kind).map(Self)
    }

    /// A number.
    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.find(kind)?.try_into().ok()?))
    }

    /// A text.
    pub(super) fn text(&self, kind: u16) -> Option<&'a str> {
        let text = std::str::from_utf8(self.find(kind)?).ok()?;
        Some(text.trim_end_matches('\0'))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(native_u16(self.0, 0)?);
        let kind = native_u16(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(ATTRIBUTE_HEADER..length)?;
        self.0 = self
            .0
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        Some((kind, value))
    }
}

/// The two octets at `at`.
pub(super) fn native_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The four octets at `at`.
pub(super) fn native_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head {
        kind: 0x0a06,
        flags: 5,
        sequence: 7,
        family: 1,
        resource: 0x0102,
    };

    fn written() -> Vec<u8> {
        let mut writer = Writer::default();
        writer.message(HEAD, |writer| {
            writer.text(1, "weft");
            writer.nested(4, |writer| writer.number(2, 0x0102_0304));
            writer.bytes(9, &[1]);
        });
        writer.message(HEAD, |_| {});
        writer.add_flags(0x400);
        writer.into_bytes()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = written();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let messages: Vec<_> = Messages(&bytes).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].kind, messages[0].sequence), (0x0a06, 7));
        assert_eq!(messages[0].body[..4], [1, 0, 1, 2]);
        let flags = |start: usize| native_u16(&bytes, start + 6);
        let second = bytes.len() - MESSAGE_HEADER - FAMILY_HEADER;
        assert_eq!((flags(0), flags(second)), (Some(5), Some(0x405)));
        let attributes = messages[0].attributes();
        assert_eq!(attributes.text(1), Some("weft"));
        assert_eq!(attributes.inside(4).unwrap().number(2), Some(0x0102_0304));
        assert_eq!(attributes.find(9), Some(&[1][..]));
        assert_eq!(attributes.number(9), None, "one octet is no number");
        assert_eq!(attributes.find(3), None);
        assert_eq!(messages[1].attributes().next(), None);
    }

    #[test]
    fn what_is_cut_off_ends_and_never_panics() {
        let bytes = written();
        for cut in 0..bytes.len() {
            for message in Messages(&bytes[..cut]) {
                assert!(message.attributes().count() <= 3);
            }
        }
        for length in 0..4 {
            assert_eq!(
                Attributes(&[length, 0, 1, 0, 0, 0, 0, 0]).next(),
                None,
                "{length}"
            );
        }
    }
}
