//! Versions: stable hashes of the core's own values. A second or a restarted control plane computes the same version
//! for the same content, so clients that say what they hold are sent nothing that they have. Never of protobuf bytes:
//! its maps have no order.
//!
//! `#[derive(Hash)]` walks the values; [`StableHasher`] makes the walk independent of the machine (integers go in as
//! little-endian, lengths as 64 bits) and of the standard library's own hash function. Values must not contain
//! unordered collections.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::ParseIntError;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// The version of one resource's content. On the wire: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The version of `value`. Cost: one SHA-256 over everything that its `Hash` writes.
    pub fn of<T: Hash + ?Sized>(value: &T) -> Self {
        let mut hasher = StableHasher::default();
        value.hash(&mut hasher);
        Self(hasher.finish())
    }

    /// The version as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Version {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// A [`Hasher`] with the same answer on every machine and in every release: SHA-256, cut to 64 bits.
#[derive(Clone, Default)]
pub struct StableHasher(Sha256);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn write_u16(&mut self, value: u16) {
        self.write(&value.to_le_bytes());
    }

    fn write_u32(&mut self, value: u32) {
        self.write(&value.to_le_bytes());
    }

    fn write_u64(&mut self, value: u64) {
        self.write(&value.to_le_bytes());
    }

    fn write_u128(&mut self, value: u128) {
        self.write(&value.to_le_bytes());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_i16(&mut self, value: i16) {
        self.write(&value.to_le_bytes());
    }

    fn write_i32(&mut self, value: i32) {
        self.write(&value.to_le_bytes());
    }

    fn write_i64(&mut self, value: i64) {
        self.write(&value.to_le_bytes());
    }

    fn write_i128(&mut self, value: i128) {
        self.write(&value.to_le_bytes());
    }

    fn write_isize(&mut self, value: isize) {
        self.write_i64(value as i64);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    /// Written down once: a change of this number means that every client in the field is sent everything again.
    #[test]
    fn the_version_of_a_value_never_changes() {
        let value = ("order.shop", [80_u16, 443], Some(true), vec![1_usize]);
        assert_eq!(Version::of(&value).to_string(), "f17d6253f59a9c55");
    }

    #[test]
    fn versions_read_back() {
        let version = Version::of("x");
        assert_eq!(version.to_string().parse(), Ok(version));
        assert!("".parse::<Version>().is_err());
        assert!("not-hex".parse::<Version>().is_err());
    }
}
