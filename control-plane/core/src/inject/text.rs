//! What people write in annotations and values, read with bounds: ports, networks, amounts, levels, durations.
//!
//! What passes here goes into a container's arguments and environment, so nothing passes that isn't read: no blank, no
//! line break, no `$`. Errors say what is wrong with the value; the caller says where it stands.

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

/// Bytes of one annotation's value.
pub(super) const VALUE_BYTES_MAX: usize = 1024;

/// Entries of a list.
pub(super) const ENTRIES_MAX: usize = 64;

/// Bytes of a log directive.
const LOG_LEVEL_BYTES_MAX: usize = 256;

/// Bytes of an amount.
const AMOUNT_BYTES_MAX: usize = 32;

/// Longest drain.
const DRAIN_MAX: Duration = Duration::from_hours(1);

/// Characters of a value that an error repeats.
const SHOWN_CHARS: usize = 40;

/// Thousandths of a processor that a sidecar may be given.
const CPU_MILLIS: std::ops::RangeInclusive<u128> = 1..=64_000;

/// Thousandths of a byte that a sidecar may be given: below 16 MiB it can't start, above 64 GiB is a typo.
const MEMORY_MILLIBYTES: std::ops::RangeInclusive<u128> = (16 << 20) * 1000..=(64 << 30) * 1000;

/// Why a value isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TextError {
    /// Longer than anything meaningful.
    #[error("it has {0} bytes, at most {1} are read")]
    TooLong(usize, usize),
    /// More entries than a list may have.
    #[error("it has {0} entries, at most {ENTRIES_MAX} are read")]
    TooMany(usize),
    /// No port.
    #[error(
        "{0} is no port; write numbers from 1 to 65535, or ranges such as 9000-9010, separated by commas"
    )]
    Port(String),
    /// No network.
    #[error("{0} is no network; write addresses such as 10.1.0.0/16 or fd00::/8, separated by commas")]
    Network(String),
    /// No amount of processor time.
    #[error("{0} is no amount of processor time; write one from 1m to 64, such as 100m or 2")]
    Cpu(String),
    /// No amount of memory.
    #[error("{0} is no amount of memory; write one from 16Mi to 64Gi, such as 64Mi")]
    Memory(String),
    /// No log level.
    #[error(
        "{0} is no log level; write off, error, warn, info, debug or trace, or target=level, separated by commas"
    )]
    LogLevel(String),
    /// No duration.
    #[error("{0} is no duration up to 1h; write whole numbers with h, m, s or ms, such as 30s")]
    Drain(String),
    /// Neither of two words.
    #[error("{0} is neither enabled nor disabled")]
    Switch(String),
    /// No user that a sidecar may run as.
    #[error("{0} is no user that a sidecar may run as; write one from 1 to 2147483647, such as 2102")]
    User(u32),
    /// No host with a port.
    #[error("{0} is no host and port, such as weft-control-plane.weft-system.svc:15010")]
    Authority(String),
    /// No word: empty, or with blanks or signs that mean something to a kubelet or a shell.
    #[error("{0} is empty, too long, or has characters that can't be in it")]
    Word(String),
}

/// A value as an error shows it: its beginning, in quotes, on one line.
pub(super) fn shown(text: &str) -> String {
    let mut beginning: String = text.chars().take(SHOWN_CHARS).collect();
    if beginning.len() < text.len() {
        beginning.push('…');
    }
    format!("{beginning:?}")
}

/// One port, or all from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// Whether it is one of them.
    pub(crate) fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Reads a list of ports and ranges. Blanks around entries are fine; an empty list is one.
pub(crate) fn ports(text: &str) -> Result<Vec<Ports>, TextError> {
    let one = |entry: &str| {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        let ports = Ports {
            first: port(first)?,
            last: port(last)?,
        };
        (ports.first <= ports.last).then_some(ports)
    };
    list(text, |entry| {
        one(entry).ok_or_else(|| TextError::Port(shown(entry)))
    })
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

/// Reads a list of networks of either family.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, TextError> {
    let one = |entry: &str| {
        let network: Option<IpNet> = entry.parse().ok();
        network.or_else(|| Some(IpNet::from(entry.parse::<std::net::IpAddr>().ok()?)))
    };
    list(text, |entry| {
        Ok(one(entry)
            .ok_or_else(|| TextError::Network(shown(entry)))?
            .trunc())
    })
}

fn list<T>(text: &str, one: impl Fn(&str) -> Result<T, TextError>) -> Result<Vec<T>, TextError> {
    bounded(text, VALUE_BYTES_MAX)?;
    let text = text.trim_matches(' ');
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let entries = text.split(',').count();
    if entries > ENTRIES_MAX {
        return Err(TextError::TooMany(entries));
    }
    text.split(',')
        .map(|entry| one(entry.trim_matches(' ')))
        .collect()
}

/// Writes a list as the sidecar's flags and variables have it.
pub(super) fn joined<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(",")
}

/// Checks an amount of processor time.
pub(super) fn cpu(text: &str) -> Result<String, TextError> {
    amount(text, &CPU_MILLIS).ok_or_else(|| TextError::Cpu(shown(text)))
}

/// Checks an amount of memory.
pub(super) fn memory(text: &str) -> Result<String, TextError> {
    amount(text, &MEMORY_MILLIBYTES).ok_or_else(|| TextError::Memory(shown(text)))
}

fn amount(text: &str, range: &std::ops::RangeInclusive<u128>) -> Option<String> {
    let fits = text.len() <= AMOUNT_BYTES_MAX && range.contains(&thousandths(text)?);
    fits.then(|| text.to_owned())
}

/// A quantity of Kubernetes in thousandths, without exponents and with at most three decimals.
fn thousandths(text: &str) -> Option<u128> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let per_unit: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        _ => return None,
    };
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if decimals.is_empty() || decimals.len() > 3 || whole.is_empty() || whole.len() > 15 {
        return None;
    }
    let whole = whole.parse::<u128>().ok()? * 1000;
    let decimals = format!("{decimals:0<3}").parse::<u128>().ok()?;
    Some((whole + decimals) * per_unit / 1000)
}

/// Checks a log directive.
pub(super) fn log_level(text: &str) -> Result<String, TextError> {
    let is_level = |level: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&level);
    let is_target = |target: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
        !target.is_empty() && target.bytes().all(is_plain)
    };
    let is_directive = |directive: &str| match directive.split_once('=') {
        Some((target, level)) => is_target(target) && is_level(level),
        None => is_level(directive),
    };
    let good = text.len() <= LOG_LEVEL_BYTES_MAX && text.split(',').all(is_directive);
    good.then(|| text.to_owned())
        .ok_or_else(|| TextError::LogLevel(shown(text)))
}

/// Reads how long a drain may take.
pub(super) fn drain(text: &str) -> Result<weft_api::duration::Duration, TextError> {
    text.parse()
        .ok()
        .filter(|time: &weft_api::duration::Duration| time.get() <= DRAIN_MAX)
        .ok_or_else(|| TextError::Drain(shown(text)))
}

/// Reads `enabled` or `disabled`.
pub(super) fn switch(text: &str) -> Result<bool, TextError> {
    match text {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        _ => Err(TextError::Switch(shown(text))),
    }
}

/// Checks a host with a port.
pub(super) fn authority(text: &str) -> Result<(), TextError> {
    let is_host = |host: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        !host.is_empty() && host.bytes().all(is_plain)
    };
    text.rsplit_once(':')
        .filter(|(host, number)| is_host(host) && port(number).is_some() && text.len() <= 259)
        .map(|_| ())
        .ok_or_else(|| TextError::Authority(shown(text)))
}

/// Checks the user that sidecars run as: not root, and one that Kubernetes takes.
pub(super) fn user(uid: u32) -> Result<(), TextError> {
    let fits = uid > 0 && i32::try_from(uid).is_ok();
    fits.then_some(()).ok_or(TextError::User(uid))
}

/// Checks a word: an image's or a domain's name.
pub(super) fn word(text: &str, bytes_max: usize) -> Result<(), TextError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@".contains(&byte);
    let good = !text.is_empty() && text.len() <= bytes_max && text.bytes().all(is_plain);
    good.then_some(()).ok_or_else(|| TextError::Word(shown(text)))
}

fn bounded(text: &str, bytes_max: usize) -> Result<(), TextError> {
    if text.len() > bytes_max {
        return Err(TextError::TooLong(text.len(), bytes_max));
    }
    Ok(())
}
