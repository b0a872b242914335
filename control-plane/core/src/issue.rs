//! Whether a certificate is issued, and what it says.
//!
//! The identity comes from the token alone; of the request (a CSR) only the key is used. The shell verifies the token,
//! has the request admitted ([`Issuer::admit`]), proves only then that the requester has the key (the CSR's signature),
//! and signs what [`Issuer::leaf`] decided. So a request beyond the rate costs no cryptography.

use std::collections::BTreeMap;
use std::time::Duration;

use thiserror::Error;

use crate::rights::Account;

/// How far a leaf's validity begins before its issue, against clocks that are behind.
pub const BACKDATE: Duration = Duration::from_mins(10);

/// The shortest lifetime that may be configured.
pub const LIFETIME_MIN: Duration = Duration::from_mins(1);

/// The longest lifetime that may be configured: leaves are not revoked.
pub const LIFETIME_MAX: Duration = Duration::from_hours(7 * 24);

/// Certificates that one account may be issued at once (its replicas start together).
pub const BURST: u32 = 200;

/// Certificates per second that one account may be issued in the long run.
pub const RATE: u32 = 10;

/// Accounts whose rate is remembered; beyond it, those that are at rest are forgotten.
pub const ACCOUNTS_MAX: usize = 4_096;

/// Bytes of a CSR.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

impl UnixTime {
    fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }

    fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_secs()))
    }
}

/// The kind of key in a CSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// NIST P-256.
    EcP256,
    /// NIST P-384.
    EcP384,
    /// Anything else.
    Other,
}

/// A request that is within its account's rate. Only [`Issuer::admit`] makes one, and it is good for one leaf.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted(Account);

/// What bounds a leaf's validity, beside the configured lifetime and the root's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How far it begins before now.
    pub backdate: Duration,
    /// How long it lasts from its beginning, at least: a shorter one is of no use.
    pub span_min: Duration,
    /// How long it lasts from its beginning, at most.
    pub span_max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            backdate: BACKDATE,
            span_min: BACKDATE + LIFETIME_MIN,
            span_max: BACKDATE + LIFETIME_MAX,
        }
    }
}

/// What a leaf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafSpec {
    /// Its only name.
    pub account: Account,
    /// Valid from.
    pub not_before: UnixTime,
    /// Valid until.
    pub not_after: UnixTime,
}

/// Why no certificate is issued.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not a key we certify.
    #[error(
        "the key of the certificate request is neither ECDSA P-256 nor P-384; make a new one of such a kind"
    )]
    Key,
    /// Too many.
    #[error("{account} asks for certificates faster than {RATE} per second; try again in {wait:?}")]
    Rate {
        /// Who asks.
        account: Account,
        /// When the next one may be issued.
        wait: Duration,
    },
    /// The root ends.
    #[error(
        "the mesh's root certificate has expired or is about to; no leaf can be issued until it is replaced"
    )]
    RootExpired,
}

/// A token bucket, in thousandths of a certificate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    millis: u64,
    at: UnixTime,
}

const FULL: u64 = BURST as u64 * 1_000;

impl Bucket {
    fn refilled(self, now: UnixTime) -> Self {
        let elapsed = now.0.saturating_sub(self.at.0);
        let millis = self
            .millis
            .saturating_add(elapsed.saturating_mul(u64::from(RATE) * 1_000));
        Self {
            millis: millis.min(FULL),
            at: now.max(self.at),
        }
    }
}

/// Decides on certificates; remembers how fast each account asks.
#[derive(Debug)]
pub struct Issuer {
    lifetime: Duration,
    root_not_after: UnixTime,
    buckets: BTreeMap<Account, Bucket>,
}

impl Issuer {
    /// Leaves of `lifetime` (held within [`LIFETIME_MIN`] and [`LIFETIME_MAX`]), under a root that is valid until
    /// `root_not_after`.
    pub fn new(lifetime: Duration, root_not_after: UnixTime) -> Self {
        Self {
            lifetime: lifetime.clamp(LIFETIME_MIN, LIFETIME_MAX),
            root_not_after,
            buckets: BTreeMap::new(),
        }
    }

    /// The root was replaced by one that is valid until `root_not_after`.
    pub fn root_ends(&mut self, root_not_after: UnixTime) {
        self.root_not_after = root_not_after;
    }

    /// Admits a request of `account`, whose token was verified, if it doesn't ask too fast. Whatever becomes of the
    /// request, it counts.
    pub fn admit(&mut self, account: Account, now: UnixTime) -> Result<Admitted, Refusal> {
        self.take(&account, now)?;
        Ok(Admitted(account))
    }

    /// Decides what the leaf for `key` says.
    pub fn leaf(
        &self,
        Admitted(account): Admitted,
        key: PublicKey,
        bounds: Bounds,
        now: UnixTime,
    ) -> Result<LeafSpec, Refusal> {
        if key == PublicKey::Other {
            return Err(Refusal::Key);
        }
        let not_before = now.minus(bounds.backdate);
        let not_after = now.plus(self.lifetime).min(self.root_not_after);
        let not_after = not_after.min(not_before.plus(bounds.span_max));
        if not_after < not_before.plus(bounds.span_min) {
            return Err(Refusal::RootExpired);
        }
        Ok(LeafSpec {
            account,
            not_before,
            not_after,
        })
    }

    fn take(&mut self, account: &Account, now: UnixTime) -> Result<(), Refusal> {
        if self.buckets.len() >= ACCOUNTS_MAX && !self.buckets.contains_key(account) {
            self.buckets
                .retain(|_, bucket| bucket.refilled(now).millis < FULL);
        }
        let bucket = self.buckets.entry(account.clone()).or_insert(Bucket {
            millis: FULL,
            at: now,
        });
        *bucket = bucket.refilled(now);
        if bucket.millis < 1_000 {
            let wait = Duration::from_millis((1_000 - bucket.millis).div_ceil(u64::from(RATE)));
            return Err(Refusal::Rate {
                account: account.clone(),
                wait,
            });
        }
        bucket.millis -= 1_000;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const FAR: UnixTime = UnixTime(u64::MAX);

    fn account() -> Account {
        Account::new("shop", "order")
    }

    impl Issuer {
        /// A request of `account`, from top to bottom.
        fn decide(&mut self, account: Account, key: PublicKey, now: UnixTime) -> Result<LeafSpec, Refusal> {
            let admitted = self.admit(account, now)?;
            self.leaf(admitted, key, Bounds::default(), now)
        }
    }

    #[test]
    fn a_leaf_is_backdated_and_bounded() {
        let mut issuer = Issuer::new(DAY, FAR);
        let spec = issuer
            .decide(account(), PublicKey::EcP256, UnixTime(1_000_000))
            .unwrap();
        assert_eq!(
            (spec.not_before, spec.not_after),
            (UnixTime(999_400), UnixTime(1_086_400))
        );
        let mut issuer = Issuer::new(Duration::ZERO, FAR);
        let spec = issuer
            .decide(account(), PublicKey::EcP384, UnixTime(1_000_000))
            .unwrap();
        assert_eq!(spec.not_after, UnixTime(1_000_060));
    }

    #[test]
    fn a_leaf_never_outlives_its_root() {
        let mut issuer = Issuer::new(DAY, UnixTime(1_000_100));
        let spec = issuer
            .decide(account(), PublicKey::EcP256, UnixTime(1_000_000))
            .unwrap();
        assert_eq!(spec.not_after, UnixTime(1_000_100));
        let late = issuer.decide(account(), PublicKey::EcP256, UnixTime(1_000_041));
        assert_eq!(late, Err(Refusal::RootExpired));
    }

    #[test]
    fn other_keys_are_refused() {
        let mut issuer = Issuer::new(DAY, FAR);
        assert_eq!(
            issuer.decide(account(), PublicKey::Other, UnixTime(0)),
            Err(Refusal::Key)
        );
    }

    #[test]
    fn a_request_that_comes_to_nothing_counts() {
        let mut issuer = Issuer::new(DAY, FAR);
        for _ in 0..BURST {
            let refused = issuer.decide(account(), PublicKey::Other, UnixTime(5));
            assert_eq!(refused, Err(Refusal::Key));
        }
        assert!(matches!(
            issuer.admit(account(), UnixTime(5)),
            Err(Refusal::Rate { .. })
        ));
    }

    #[test]
    fn bounds_narrow_a_leaf_on_both_sides() {
        let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        let bounds = |span_max| Bounds {
            backdate: minute,
            span_min: hour,
            span_max,
        };
        let mut issuer = Issuer::new(DAY, UnixTime(1_010_000));
        let mut leaf = |bounds: Bounds, now: u64| {
            let admitted = issuer.admit(account(), UnixTime(now)).unwrap();
            let leaf = issuer.leaf(admitted, PublicKey::EcP256, bounds, UnixTime(now));
            leaf.map(|leaf| (leaf.not_before.0, leaf.not_after.0))
        };
        assert_eq!(leaf(bounds(hour), 1_000_000), Ok((999_940, 1_003_540)));
        assert_eq!(leaf(bounds(DAY), 1_000_000), Ok((999_940, 1_010_000)));
        assert_eq!(leaf(bounds(DAY), 1_006_460), Ok((1_006_400, 1_010_000)));
        assert_eq!(leaf(bounds(DAY), 1_006_461), Err(Refusal::RootExpired));
    }

    #[test]
    fn a_flood_of_one_account_costs_no_other() {
        let mut issuer = Issuer::new(DAY, FAR);
        let granted =
            (0..10_000).filter(|_| issuer.decide(account(), PublicKey::EcP256, UnixTime(5)).is_ok());
        assert_eq!(granted.count(), BURST as usize);
        assert!(
            issuer
                .decide(Account::new("shop", "user"), PublicKey::EcP256, UnixTime(5))
                .is_ok()
        );
        assert!(issuer.decide(account(), PublicKey::EcP256, UnixTime(6)).is_ok());
    }

    #[test]
    fn accounts_at_rest_are_forgotten() {
        let mut issuer = Issuer::new(DAY, FAR);
        for number in 0..3 * ACCOUNTS_MAX as u64 {
            let account = Account::new("shop", &number.to_string());
            issuer
                .decide(account, PublicKey::EcP256, UnixTime(number))
                .unwrap();
        }
        assert!(issuer.buckets.len() <= ACCOUNTS_MAX);
    }

    proptest! {
        /// Over any span no more than the burst and what the rate allows is issued, and nothing that was due is refused.
        #[test]
        fn the_rate_is_kept(gaps in prop::collection::vec((0_u64..4, 0_u32..60), 1..60)) {
            let mut issuer = Issuer::new(DAY, FAR);
            let (mut now, mut allowance) = (0_u64, f64::from(BURST));
            for (gap, requests) in gaps {
                now += gap;
                allowance = f64::from(BURST).min(allowance + gap as f64 * f64::from(RATE));
                for _ in 0..requests {
                    let granted = issuer.decide(account(), PublicKey::EcP256, UnixTime(now)).is_ok();
                    prop_assert_eq!(granted, allowance >= 1.0);
                    allowance -= if granted { 1.0 } else { 0.0 };
                }
            }
        }
    }
}
