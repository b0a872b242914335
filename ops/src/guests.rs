//! Who is being served, by address, so that one that comes over and over doesn't keep the others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts guests by address. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Guests {
    each_max: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A guest's place; dropping it makes room.
#[derive(Debug)]
pub struct Guest {
    guests: Guests,
    address: IpAddr,
}

impl Guests {
    /// At most so many of one address at once.
    pub fn new(each_max: usize) -> Self {
        Self {
            each_max,
            counts: Arc::default(),
        }
    }

    /// A place for a guest from `address`, if it has not got too many. An IPv4 address is the same in an IPv6 coat.
    pub fn admit(&self, address: IpAddr) -> Option<Guest> {
        let address = address.to_canonical();
        let mut counts = self.counts();
        let count = counts.entry(address).or_default();
        if *count >= self.each_max {
            return None;
        }
        *count += 1;
        Some(Guest {
            guests: self.clone(),
            address,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.counts();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_so_many_places_and_no_more() {
        let guests = Guests::new(2);
        let admit = |address: &str| guests.admit(address.parse().unwrap());
        let (first, second) = (admit("10.0.0.1"), admit("::ffff:10.0.0.1"));
        assert!(first.is_some() && second.is_some());
        assert!(admit("10.0.0.1").is_none());
        assert!(admit("10.0.0.2").is_some());
        drop(first);
        let third = admit("10.0.0.1");
        assert!(third.is_some());
        drop((second, third));
        assert!(guests.counts().is_empty());
    }
}
