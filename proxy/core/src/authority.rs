//! Authorities: `host`, `host:port`, `ip:port`, `[v6]:port`.
//!
//! One parsed value stands for routing, policy, log and forwarding, so that no two of them can read the same text
//! differently. The parser is stricter than RFC 3986: no userinfo, no percent-encoding, no zone ids, no empty or
//! padded port, and no host that some resolvers take for an IPv4 address (`127.1`, `0x7f.1`, `2130706433`). Case and one
//! trailing dot are normalised away.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

/// Longest host name, in bytes (RFC 1035).
pub const MAX_NAME: usize = 253;

/// Longest label of a host name, in bytes (RFC 1035).
pub const MAX_LABEL: usize = 63;

/// Why a text is no authority, or not one that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// `user@host`.
    #[error("userinfo (`user@`) is not allowed in an authority")]
    Userinfo,
    /// A character that no host name has.
    #[error("the host holds a character that host names do not have")]
    Character,
    /// A label or the whole is too long, or a label is empty or begins or ends with `-`.
    #[error("the host is not a DNS name: a label is empty, too long, or begins or ends with a hyphen")]
    Name,
    /// Looks like an IPv4 address, but isn't four decimal numbers.
    #[error("the host looks like an IPv4 address but is not four decimal numbers")]
    Numeric,
    /// Not an IPv6 address in brackets; zone ids are refused too.
    #[error("the host is not an IPv6 address in brackets without a zone id")]
    Ipv6,
    /// Not 1 to 65535 in plain decimal digits.
    #[error("the port is not a decimal number from 1 to 65535")]
    Port,
    /// CONNECT needs one.
    #[error("CONNECT needs a port")]
    NoPort,
    /// A tunnel to it would reach what it must not.
    #[error("loopback, link-local, multicast and administrative addresses are no destinations")]
    Forbidden,
}

/// A host: a name in lower case without trailing dot, or an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name.
    Name(Box<str>),
    /// An address; IPv4 mapped into IPv6 is IPv4.
    Ip(IpAddr),
}

/// A host, and a port where one was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, if there was one.
    pub port: Option<NonZeroU16>,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl std::str::FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes())
    }
}

impl Authority {
    /// Parses what stands in `Host`, `:authority`, an absolute-form target or a CONNECT target.
    pub fn parse(text: &[u8]) -> Result<Self, AuthorityError> {
        if text.contains(&b'@') {
            return Err(AuthorityError::Userinfo);
        }
        let text = std::str::from_utf8(text).map_err(|_| AuthorityError::Character)?;
        if let Some(rest) = text.strip_prefix('[') {
            let (ip, port) = rest.split_once(']').ok_or(AuthorityError::Ipv6)?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| AuthorityError::Ipv6)?;
            let port = match port.strip_prefix(':') {
                Some(port) => Some(parse_port(port)?),
                None if port.is_empty() => None,
                None => return Err(AuthorityError::Port),
            };
            return Ok(Self {
                host: Host::Ip(ip.to_canonical()),
                port,
            });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        Ok(Self {
            host: parse_host(host)?,
            port,
        })
    }

    /// Whether both name the same, with `default_port` for one that has none.
    pub fn same_as(&self, other: &Self, default_port: u16) -> bool {
        self.host == other.host && self.port_or(default_port) == other.port_or(default_port)
    }

    /// The port, or `default_port`.
    pub fn port_or(&self, default_port: u16) -> u16 {
        self.port.map_or(default_port, NonZeroU16::get)
    }

    /// The address, where the host is one.
    pub fn address(&self, default_port: u16) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port_or(default_port))),
            Host::Name(_) => None,
        }
    }
}

fn parse_port(text: &str) -> Result<NonZeroU16, AuthorityError> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain {
        text.parse().map_err(|_| AuthorityError::Port)
    } else {
        Err(AuthorityError::Port)
    }
}

fn parse_host(text: &str) -> Result<Host, AuthorityError> {
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(IpAddr::V4(ip)));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(AuthorityError::Empty);
    }
    if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err(AuthorityError::Character);
    }
    if name.len() > MAX_NAME || !name.split('.').all(is_label) {
        return Err(AuthorityError::Name);
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|b| b.is_ascii_digit()) || is_hex_number(last) {
        return Err(AuthorityError::Numeric);
    }
    Ok(Host::Name(name.to_ascii_lowercase().into_boxed_str()))
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.len() <= MAX_LABEL && !label.starts_with('-') && !label.ends_with('-')
}

fn is_hex_number(label: &str) -> bool {
    let digits = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// From where short names are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    namespace: Box<str>,
    cluster_domain: Box<str>,
}

impl Scope {
    /// A scope. `namespace` is one DNS label, `cluster_domain` a DNS name; case and a trailing dot don't matter.
    pub fn new(namespace: &str, cluster_domain: &str) -> Result<Self, AuthorityError> {
        let Host::Name(namespace) = parse_host(namespace)? else {
            return Err(AuthorityError::Name);
        };
        let Host::Name(cluster_domain) = parse_host(cluster_domain)? else {
            return Err(AuthorityError::Name);
        };
        if namespace.contains('.') {
            return Err(AuthorityError::Name);
        }
        Ok(Self {
            namespace,
            cluster_domain,
        })
    }

    /// The name a destination is asked for by: `user`, `user.shop` and `user.shop.svc` become
    /// `user.shop.svc.<domain>:<port>`; every other name and every address stays, always with a port.
    pub fn expand(&self, authority: &Authority, default_port: u16) -> String {
        let port = authority.port_or(default_port);
        let Host::Name(name) = &authority.host else {
            return format!("{}:{port}", authority.host);
        };
        let domain = &self.cluster_domain;
        match name.bytes().filter(|b| *b == b'.').count() {
            0 => format!("{name}.{}.svc.{domain}:{port}", self.namespace),
            1 => format!("{name}.svc.{domain}:{port}"),
            _ if name.ends_with(".svc") => format!("{name}.{domain}:{port}"),
            _ => format!("{name}:{port}"),
        }
    }
}

/// Checks the target of a CONNECT: it has a port, and is no address that [`is_forbidden`] names, nor `localhost`.
pub fn check_connect(authority: &Authority, own: &[SocketAddr]) -> Result<(), AuthorityError> {
    let port = authority.port.ok_or(AuthorityError::NoPort)?;
    match &authority.host {
        Host::Name(name) if &**name == "localhost" || name.ends_with(".localhost") => {
            Err(AuthorityError::Forbidden)
        }
        Host::Ip(ip) if is_forbidden(SocketAddr::new(*ip, port.get()), own) => Err(AuthorityError::Forbidden),
        Host::Name(_) | Host::Ip(_) => Ok(()),
    }
}

/// Whether traffic that an application steers must not reach `address`: loopback, unspecified, link-local (cloud
/// metadata lives there), multicast and broadcast addresses, and this proxy's `own` listeners (an unspecified one
/// stands for its port on every address). Ask it of the address that is dialled, after name resolution.
pub fn is_forbidden(address: SocketAddr, own: &[SocketAddr]) -> bool {
    let ip = embedded_v4(address.ip()).unwrap_or(address.ip());
    let special = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.octets()[0] == 0 || ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local(),
    };
    special || ip.is_multicast() || is_own(address, own)
}

/// Whether dialling `address` ends at one of this proxy's `own` listeners: what is passed there would come back for ever.
pub fn is_own(address: SocketAddr, own: &[SocketAddr]) -> bool {
    let ip = embedded_v4(address.ip()).unwrap_or(address.ip());
    own.iter().any(|listener| {
        let same =
            listener.ip().is_unspecified() || ip.is_unspecified() || listener.ip().to_canonical() == ip;
        listener.port() == address.port() && same
    })
}

/// The IPv4 address inside an IPv6 one: mapped, compatible, NAT64 (RFC 6052) or 6to4.
fn embedded_v4(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = ip else { return None };
    let last = |s: [u16; 8]| Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
    let v4 = match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return None,
        s @ ([0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..]) => last(s),
        [0x2002, high, low, ..] => Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)),
        _ => return None,
    };
    Some(IpAddr::V4(v4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Authority, AuthorityError> {
        text.parse()
    }

    #[test]
    fn an_own_listener_is_recognised_however_it_is_dialled() {
        let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        let own = [address("127.0.0.1:15001"), address("0.0.0.0:15020")];
        for (dialled, expected) in [
            ("127.0.0.1:15001", true),
            ("[::ffff:127.0.0.1]:15001", true),
            ("0.0.0.0:15001", true),
            ("[::]:15001", true),
            ("10.0.0.1:15020", true),
            ("10.0.0.1:15001", false),
            ("127.0.0.1:80", false),
        ] {
            assert_eq!(is_own(address(dialled), &own), expected, "{dialled}");
        }
    }

    #[test]
    fn accepts_and_normalises() {
        for (text, shown) in [
            ("user", "user"),
            ("User.Shop:80", "user.shop:80"),
            ("secret.com.", "secret.com"),
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("[::1]", "[::1]"),
            ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("a_b.c", "a_b.c"),
            ("3com.com", "3com.com"),
        ] {
            assert_eq!(parse(text).expect(text).to_string(), shown);
        }
    }

    #[test]
    fn refuses() {
        use AuthorityError::{Character, Empty, Ipv6, Name, Numeric, Port, Userinfo};
        for (text, error) in [
            ("", Empty),
            (".", Empty),
            (":80", Empty),
            ("a@evil", Userinfo),
            ("a:b@evil", Userinfo),
            ("a b", Character),
            ("a%41", Character),
            ("a/b", Character),
            ("a#b", Character),
            ("é", Character),
            ("a..b", Name),
            ("-a", Name),
            ("a-.b", Name),
            ("a..", Name),
            ("127.1", Numeric),
            ("2130706433", Numeric),
            ("0x7f.1", Numeric),
            ("a.0x7F", Numeric),
            ("127.0.0.01", Numeric),
            ("1.2.3.4.", Numeric),
            ("[::1", Ipv6),
            ("[fe80::1%eth0]", Ipv6),
            ("[fe80::1%25eth0]", Ipv6),
            ("[1.2.3.4]", Ipv6),
            ("[::1]x", Port),
            ("[::1]:", Port),
            ("a:", Port),
            ("a:0", Port),
            ("a:080", Port),
            ("a:+80", Port),
            ("a:65536", Port),
            ("a:99999999999999999999", Port),
            ("::1", Port),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(parse(&"a".repeat(64)), Err(Name));
        assert_eq!(parse(&["a"; 128].join(".")), Err(Name));
    }

    #[test]
    fn expands_short_names() {
        let scope = Scope::new("shop", "Cluster.Local.").expect("scope");
        for (text, name) in [
            ("user", "user.shop.svc.cluster.local:80"),
            ("user:8080", "user.shop.svc.cluster.local:8080"),
            ("user.other", "user.other.svc.cluster.local:80"),
            ("user.other.svc", "user.other.svc.cluster.local:80"),
            ("user.other.svc.cluster.local", "user.other.svc.cluster.local:80"),
            ("user.other.svc.cluster.local.", "user.other.svc.cluster.local:80"),
            ("db-0.db.other.svc", "db-0.db.other.svc.cluster.local:80"),
            ("www.example.com:443", "www.example.com:443"),
            ("10.0.0.1", "10.0.0.1:80"),
            ("[2001:db8::1]:81", "[2001:db8::1]:81"),
        ] {
            assert_eq!(scope.expand(&parse(text).expect(text), 80), name);
        }
        assert_eq!(Scope::new("a.b", "cluster.local"), Err(AuthorityError::Name));
        assert_eq!(Scope::new("a", "10.0.0.1"), Err(AuthorityError::Name));
    }

    #[test]
    fn equality_takes_the_default_port_into_account() {
        let (bare, full) = (parse("User").expect("a"), parse("user.:80").expect("b"));
        assert!(bare.same_as(&full, 80));
        assert!(!bare.same_as(&full, 443));
    }

    #[test]
    fn tunnels_reach_no_forbidden_address() {
        let own: Vec<SocketAddr> = ["0.0.0.0:15020", "10.9.9.9:4000"]
            .map(|a| a.parse().expect(a))
            .into();
        let check = |text: &str| check_connect(&parse(text).expect(text), &own);
        for text in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "169.254.169.254:80",
            "255.255.255.255:80",
            "224.0.0.1:80",
            "[::1]:80",
            "[::]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[::127.0.0.1]:80",
            "[64:ff9b::7f00:1]:80",
            "[2002:7f00:1::]:80",
            "localhost:80",
            "x.LOCALHOST.:80",
            "10.0.0.1:15020",
            "[2001:db8::1]:15020",
            "10.9.9.9:4000",
            "[::ffff:10.9.9.9]:4000",
        ] {
            assert_eq!(check(text), Err(AuthorityError::Forbidden), "{text}");
        }
        for text in [
            "10.0.0.1:80",
            "user:80",
            "[2001:db8::1]:443",
            "10.9.9.9:4001",
            "[2002:808:808::]:80",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        assert_eq!(check("user"), Err(AuthorityError::NoPort));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_and_the_canonical_form_is_stable(
            text in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                "[a-zA-Z0-9._:\\[\\]@%-]{0,40}".prop_map(String::into_bytes),
            ]
        ) {
            if let Ok(authority) = Authority::parse(&text) {
                let shown = authority.to_string();
                prop_assert_eq!(shown.parse::<Authority>(), Ok(authority));
                prop_assert_eq!(shown.to_ascii_lowercase(), shown);
            }
        }

        #[test]
        fn expansion_is_idempotent(name in "[a-z]{1,5}(\\.[a-z]{1,5}){0,4}(\\.svc)?", port in 1u16..) {
            let scope = Scope::new("shop", "cluster.local").expect("scope");
            let once = scope.expand(&parse(&format!("{name}:{port}")).expect("valid"), 80);
            prop_assert_eq!(scope.expand(&parse(&once).expect("valid"), 1), once.clone());
        }
    }
}
