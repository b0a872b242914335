//! What a sidecar's `/metrics` says, read as far as the demo needs it: pure functions over text.

use std::collections::BTreeMap;

/// One line of the Prometheus text format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Sample {
    /// A label, empty where it is missing.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The value of a counter.
    pub(crate) fn count(&self) -> u64 {
        // Counters are whole, not negative, and far below 2^53.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let count = self.value.max(0.0) as u64;
        count
    }
}

/// The samples of a text; what can't be read is left out.
pub(crate) fn parse(text: &str) -> impl Iterator<Item = Sample> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(parse_line)
}

fn parse_line(line: &str) -> Option<Sample> {
    let (name, rest) = match line.split_once('{') {
        Some((name, rest)) => (name, rest),
        None => (line.split_once(' ')?.0, ""),
    };
    let (labels, rest) = if rest.is_empty() {
        (BTreeMap::new(), line.split_once(' ')?.1)
    } else {
        parse_labels(rest)?
    };
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: rest.split_whitespace().next()?.parse().ok()?,
    })
}

/// `a="b",c="d"}` and what stands behind it.
fn parse_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, behind) = parse_value(quoted)?;
        labels.insert(name.to_owned(), value);
        rest = behind;
    }
}

/// A label's value up to its closing quote, without escapes.
fn parse_value(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &quoted[at + 1..])),
            (_, '\\') => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, other) => value.push(other),
        }
    }
}

/// A histogram: how many observations lie below each bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
    /// By upper bound in nanoseconds (`u64::MAX`: no bound), cumulative.
    pub(crate) below: BTreeMap<u64, u64>,
}

impl Histogram {
    /// Adds to one bucket. `le` is the bound in seconds, as Prometheus writes it.
    pub(crate) fn add(&mut self, le: &str, count: u64) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bound = match le.parse::<f64>() {
            Ok(seconds) if seconds.is_finite() => (seconds.max(0.0) * 1e9).round() as u64,
            Ok(_) => u64::MAX,
            Err(_) => return,
        };
        *self.below.entry(bound).or_default() += count;
    }

    /// Adds another one with the same bounds.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (bound, count) in &other.below {
            *self.below.entry(*bound).or_default() += count;
        }
    }

    /// What was observed since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |bound| earlier.below.get(bound).copied().unwrap_or(0);
        let below = self.below.iter();
        Self {
            below: below
                .map(|(bound, count)| (*bound, count.saturating_sub(before(bound))))
                .collect(),
        }
    }

    /// The `quantile` (0 to 1) in milliseconds, as if observations were spread evenly within a bucket; `None` without
    /// observations. What lies above the last bound counts as the last bound.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let total = self.below.values().next_back().copied().filter(|&n| n > 0)?;
        let rank = quantile * total as f64;
        let (mut lower, mut seen) = (0, 0);
        for (&bound, &count) in &self.below {
            if count as f64 >= rank && count > seen {
                let upper = if bound == u64::MAX { lower } else { bound };
                let share = ((rank - seen as f64) / (count - seen) as f64).max(0.0);
                return Some((lower as f64 + (upper - lower) as f64 * share) / 1e6);
            }
            (lower, seen) = (bound, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# HELP a what\n# TYPE a counter\na_total{to=\"x\\\"y\\\\\",result=\"success\"} 12\nb 1.5 1700000000\n\nbroken{\n";
        let samples: Vec<Sample> = parse(text).collect();
        assert_eq!(samples.len(), 2);
        assert_eq!((samples[0].name.as_str(), samples[0].count()), ("a_total", 12));
        assert_eq!(samples[0].label("to"), "x\"y\\");
        assert_eq!(samples[0].label("result"), "success");
        assert_eq!(samples[0].label("none"), "");
        assert_eq!((samples[1].name.as_str(), samples[1].value), ("b", 1.5));
    }

    fn histogram(buckets: &[(&str, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for (le, count) in buckets {
            histogram.add(le, *count);
        }
        histogram
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let histogram = histogram(&[("0.001", 50), ("0.002", 99), ("0.01", 100), ("+Inf", 100)]);
        assert_eq!(histogram.quantile_ms(0.5), Some(1.0));
        assert_eq!(histogram.quantile_ms(0.99), Some(2.0));
        assert_eq!(histogram.quantile_ms(0.25), Some(0.5));
        assert_eq!(histogram.quantile_ms(1.0), Some(10.0));
    }

    #[test]
    fn quantiles_of_nothing_and_of_the_unbounded() {
        assert_eq!(Histogram::default().quantile_ms(0.5), None);
        assert_eq!(histogram(&[("0.1", 0), ("+Inf", 0)]).quantile_ms(0.5), None);
        assert_eq!(
            histogram(&[("0.1", 0), ("+Inf", 3)]).quantile_ms(0.5),
            Some(100.0)
        );
    }

    #[test]
    fn what_was_before_is_left_out() {
        let earlier = histogram(&[("0.1", 10), ("+Inf", 10)]);
        let later = histogram(&[("0.1", 10), ("1", 14), ("+Inf", 14)]);
        assert_eq!(
            later.since(&earlier),
            histogram(&[("0.1", 0), ("1", 14), ("+Inf", 4)])
        );
        let mut sum = earlier.clone();
        sum.merge(&earlier);
        assert_eq!(sum, histogram(&[("0.1", 20), ("+Inf", 20)]));
    }
}
