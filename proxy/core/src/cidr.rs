//! Address blocks: `10.0.0.0/8`, `fd00::/8`, or one address.
//!
//! Stricter than most readers: a block with bits below its prefix is refused, because one of the two is a mistake.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The private blocks of RFC 1918, RFC 6598 and RFC 4193: where a cluster's own addresses are, unless somebody says
/// otherwise.
pub const PRIVATE: [Cidr; 5] = [
    Cidr::v4(Ipv4Addr::new(10, 0, 0, 0), 8),
    Cidr::v4(Ipv4Addr::new(172, 16, 0, 0), 12),
    Cidr::v4(Ipv4Addr::new(192, 168, 0, 0), 16),
    Cidr::v4(Ipv4Addr::new(100, 64, 0, 0), 10),
    Cidr {
        address: IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)),
        prefix: 7,
    },
];

/// Loopback.
pub const LOOPBACK: [Cidr; 2] = [
    Cidr::v4(Ipv4Addr::new(127, 0, 0, 0), 8),
    Cidr {
        address: IpAddr::V6(Ipv6Addr::LOCALHOST),
        prefix: 128,
    },
];

/// A block of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The first address of the block.
    address: IpAddr,
    /// Bits that all its addresses share.
    prefix: u8,
}

/// Why a text is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not an address.
    #[error("it is not a block of addresses such as 10.0.0.0/8 or fd00::/8")]
    Address,
    /// Longer than the family's addresses.
    #[error("the number behind `/` is not 0 to 32 (IPv4) or 0 to 128 (IPv6)")]
    Prefix,
    /// Address and prefix contradict each other.
    #[error("the address has bits below its prefix; the block that it lies in is {0}")]
    HostBits(Cidr),
}

impl Cidr {
    const fn v4(address: Ipv4Addr, prefix: u8) -> Self {
        Self {
            address: IpAddr::V4(address),
            prefix,
        }
    }

    /// The block of `prefix` bits that begins at `address`. `None`: no block does.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= most && first(address, prefix) == address).then_some(Self { address, prefix })
    }

    /// The first address of the block.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that all its addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `ip` is in the block; an IPv4 address mapped into IPv6 is IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.address.is_ipv4() && first(ip, self.prefix) == self.address
    }

    /// The mask that leaves the prefix: as many octets as the family's addresses have.
    pub fn mask(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => first(IpAddr::V4(Ipv4Addr::BROADCAST), self.prefix),
            IpAddr::V6(_) => first(IpAddr::V6(Ipv6Addr::from(u128::MAX)), self.prefix),
        }
    }
}

/// The first address of the block of `prefix` bits that `ip` lies in.
fn first(ip: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(ip) & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(ip) & mask))
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                let prefix = text.parse().ok().filter(|prefix| *prefix <= most);
                prefix.ok_or(CidrError::Prefix)?
            }
            Some(_) => return Err(CidrError::Prefix),
        };
        let block = Self {
            address: first(address, prefix),
            prefix,
        };
        if block.address == address {
            Ok(block)
        } else {
            Err(CidrError::HostBits(block))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    #[test]
    fn reads_and_writes() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("FD00::/8", "fd00::/8"),
            ("::/0", "::/0"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(cidr(text).to_string(), shown);
        }
        for cidr in PRIVATE {
            assert_eq!(cidr.to_string().parse(), Ok(cidr));
        }
    }

    #[test]
    fn refuses() {
        for (text, error) in [
            ("", CidrError::Address),
            ("shop", CidrError::Address),
            ("10.0.0/8", CidrError::Address),
            (" 10.0.0.0/8", CidrError::Address),
            ("10.0.0.0/", CidrError::Prefix),
            ("10.0.0.0/33", CidrError::Prefix),
            ("10.0.0.0/+8", CidrError::Prefix),
            ("10.0.0.0/-1", CidrError::Prefix),
            ("fd00::/129", CidrError::Prefix),
            ("fd00::/256", CidrError::Prefix),
            ("10.0.0.1/8", CidrError::HostBits(cidr("10.0.0.0/8"))),
            ("fd00::1/64", CidrError::HostBits(cidr("fd00::/64"))),
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(error), "{text}");
        }
    }

    #[test]
    fn contains_its_own_family_only() {
        let all = cidr("0.0.0.0/0");
        assert!(all.contains("1.2.3.4".parse().expect("an address")));
        assert!(all.contains("::ffff:1.2.3.4".parse().expect("an address")));
        assert!(!all.contains("fd00::1".parse().expect("an address")));
        assert!(!cidr("::/0").contains("1.2.3.4".parse().expect("an address")));
    }

    proptest! {
        #[test]
        fn a_block_holds_what_shares_its_prefix(ip: u32, other: u32, prefix in 0_u8..=32) {
            let (ip, other) = (Ipv4Addr::from(ip), Ipv4Addr::from(other));
            let block = Cidr { address: first(ip.into(), prefix), prefix };
            prop_assert!(block.contains(ip.into()));
            let alike = (u32::from(ip) ^ u32::from(other)).leading_zeros() >= u32::from(prefix);
            prop_assert_eq!(block.contains(other.into()), alike);
            prop_assert_eq!(block.to_string().parse(), Ok(block));
        }

        #[test]
        fn a_block_holds_what_shares_its_prefix_in_ipv6(ip: u128, other: u128, prefix in 0_u8..=128) {
            let (ip, other) = (Ipv6Addr::from(ip), Ipv6Addr::from(other));
            let block = Cidr { address: first(ip.into(), prefix), prefix };
            let mapped = |ip: Ipv6Addr| ip.to_ipv4_mapped().is_some();
            prop_assume!(!mapped(ip) && !mapped(other));
            prop_assert!(block.contains(ip.into()));
            let alike = (u128::from(ip) ^ u128::from(other)).leading_zeros() >= u32::from(prefix);
            prop_assert_eq!(block.contains(other.into()), alike);
            prop_assert_eq!(block.to_string().parse(), Ok(block));
        }
    }
}
