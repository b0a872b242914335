//! The access log: one JSON object per exchange, a line each, on standard error.
//!
//! Workers format a record and hand it to a writer thread over a bounded queue. The thread writes what waits for it in one
//! piece, so that under load there are fewer writes than records. A queue that is full costs the record, never the
//! request: dropped lines are counted in `weft_access_log_dropped_total`.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use metrics::{Counter, counter};
use serde::Serialize;

/// Records that may wait for the writer.
const QUEUE: usize = 4096;
/// What is written in one piece, beyond the record that fills it, in bytes.
const BATCH: usize = 64 * 1024;

/// Where records go. Cheap to clone, one for each worker.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: SyncSender<Vec<u8>>,
    dropped: Counter,
}

/// One exchange, or one opaque connection. What is unknown is left out.
#[derive(Debug, Default, Serialize)]
pub struct Record<'a> {
    /// `outbound` or `inbound`.
    pub direction: &'static str,
    /// Who connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<std::net::SocketAddr>,
    /// The identity that the peer proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<&'a str>,
    /// `http1`, `http2`, `grpc` or `tcp`.
    pub protocol: &'static str,
    /// Request method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// As the client named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<&'a str>,
    /// Path, without the query: queries carry secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// The cluster or Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<&'a str>,
    /// The rule that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// Who answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<std::net::SocketAddr>,
    /// HTTP status that was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// gRPC status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u32>,
    /// Why the proxy answered by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Its short code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<&'static str>,
    /// `complete`, `upstream_reset` or `downstream_gone`.
    pub end: &'static str,
    /// Attempts made.
    pub attempts: u32,
    /// Why there was no further one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_denied: Option<&'static str>,
    /// From the request's head to the end of the response, in milliseconds.
    pub duration_ms: f64,
    /// W3C trace id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<&'a str>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    record: &'a Record<'a>,
}

impl AccessLog {
    /// Starts the writer thread, which ends when the last clone is dropped and all is written.
    pub fn start<W: Write + Send + 'static>(mut sink: W) -> std::io::Result<Self> {
        let (lines, queue) = sync_channel::<Vec<u8>>(QUEUE);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                // Ends when nobody reads, too: from then on every line counts as dropped.
                let _ = write_all(&queue, &mut sink);
            })?;
        Ok(Self {
            lines,
            dropped: counter!("weft_access_log_dropped_total"),
        })
    }

    /// Hands a record over, or drops it.
    pub fn write(&self, record: &Record<'_>) {
        let line = Line {
            time: rfc3339(SystemTime::now()),
            record,
        };
        let Ok(mut bytes) = serde_json::to_vec(&line) else {
            return;
        };
        bytes.push(b'\n');
        match self.lines.try_send(bytes) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped.increment(1),
        }
    }
}

/// Writes what comes, and all that waits together.
fn write_all(queue: &Receiver<Vec<u8>>, sink: &mut impl Write) -> std::io::Result<()> {
    let mut batch = Vec::new();
    while let Ok(first) = queue.recv() {
        batch.extend_from_slice(&first);
        while batch.len() < BATCH
            && let Ok(line) = queue.try_recv()
        {
            batch.extend_from_slice(&line);
        }
        sink.write_all(&batch)?;
        sink.flush()?;
        batch.clear();
    }
    Ok(())
}

/// UTC with milliseconds (RFC 3339).
fn rfc3339(time: SystemTime) -> String {
    const DAY: u64 = 86_400;
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (year, month, day) = civil(seconds / DAY);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The date of a day since 1970, in the proleptic Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    let shifted = days + 719_468; // days since 0000-03-01: leap days come last in such years
    let (era, day_of_era) = (shifted / DAYS_PER_ERA, shifted % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    #[test]
    fn times_are_written_as_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(
                rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                text
            );
        }
    }

    struct Gate(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_writer_costs_lines_and_never_blocks() {
        let (open, gate) = channel();
        let (written, lines) = channel();
        let log = AccessLog::start(Gate(gate, written)).unwrap();
        let record = Record {
            direction: "outbound",
            status: Some(200),
            ..Record::default()
        };
        for _ in 0..2 * QUEUE {
            log.write(&record);
        }
        drop((open, log));
        let writes: Vec<Vec<u8>> = lines.iter().collect();
        let all = writes.concat();
        let lines: Vec<&[u8]> = all.split_inclusive(|byte| *byte == b'\n').collect();
        let batch = BATCH / lines[0].len() + 2;
        assert!(
            (QUEUE..=QUEUE + batch).contains(&lines.len()),
            "{} lines",
            lines.len()
        );
        assert!(writes.len() < lines.len() / 100, "{} writes", writes.len());
        let parsed: serde_json::Value = serde_json::from_slice(lines[0]).unwrap();
        assert_eq!(
            (&parsed["status"], &parsed["direction"]),
            (&200.into(), &"outbound".into())
        );
        assert!(parsed.get("reason").is_none());
    }
}
