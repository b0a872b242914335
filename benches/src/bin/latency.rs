//! Latency at a fixed rate over HTTP/1.1: open loop, without coordinated omission.
//!
//! Every request has a moment when it is due, fixed before the run. Latency runs from that moment to the last byte of
//! the response, whether the request could be sent then or had to wait for an earlier one. One thread per
//! connection, each with every n-th request; blocking sockets, so that nothing but the kernel stands in between.
//!
//! `latency ADDRESS CONNECTIONS REQUESTS_PER_SECOND SECONDS` prints one JSON object, times in microseconds. The first
//! second warms up and is not counted.

use std::env;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

/// Not counted, at the beginning.
const WARM_UP: Duration = Duration::from_secs(1);
/// An answer that takes longer is a failure.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest response, in bytes.
const RESPONSE_MAX: usize = 1 << 20;
/// How exactly a thread wakes up, in nanoseconds. The kernel's default of 50 µs would be measured as latency.
const TIMER_SLACK: NonZeroU64 = NonZeroU64::MIN;

/// What to do.
#[derive(Clone, Copy, Debug)]
struct Plan {
    address: SocketAddr,
    connections: u32,
    rate: f64,
    seconds: f64,
}

/// What one connection saw.
#[derive(Debug, Default)]
struct Seen {
    latencies: Vec<Duration>,
    failures: u64,
}

impl Plan {
    fn parse(arguments: &[String]) -> Option<Self> {
        let [address, connections, rate, seconds] = arguments else {
            return None;
        };
        let plan = Self {
            address: address.parse().ok()?,
            connections: connections.parse().ok()?,
            rate: rate.parse().ok()?,
            seconds: seconds.parse().ok()?,
        };
        (plan.connections > 0 && plan.rate > 0.0 && plan.seconds > 0.0).then_some(plan)
    }

    /// When the requests of connection `index` are due, from the start.
    fn due(self, index: u32) -> impl Iterator<Item = Duration> {
        let end = WARM_UP.as_secs_f64() + self.seconds;
        (0_u32..)
            .map(move |nth| (f64::from(nth) * f64::from(self.connections) + f64::from(index)) / self.rate)
            .take_while(move |at| *at < end)
            .map(Duration::from_secs_f64)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some(plan) = Plan::parse(&arguments) else {
        eprintln!("usage: latency ADDRESS CONNECTIONS REQUESTS_PER_SECOND SECONDS");
        return ExitCode::from(2);
    };
    if let Err(error) = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK)) {
        eprintln!("timer slack stays as it is, latencies include it: {error}");
    }
    let start = Instant::now();
    let threads: Vec<_> = (0..plan.connections)
        .map(|index| thread::spawn(move || connection(plan, index, start)))
        .collect();
    let mut latencies = Vec::new();
    let mut failures = 0;
    for thread in threads {
        let seen = thread
            .join()
            .expect("a connection counts failures, it does not panic");
        latencies.extend(seen.latencies);
        failures += seen.failures;
    }
    latencies.sort_unstable();
    println!("{}", report(&latencies, failures));
    ExitCode::SUCCESS
}

/// One connection's share. Opened anew after a failure.
fn connection(plan: Plan, index: u32, start: Instant) -> Seen {
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", plan.address);
    let mut seen = Seen::default();
    let mut stream = None;
    for due in plan.due(index) {
        thread::sleep((start + due).saturating_duration_since(Instant::now()));
        let answered = match stream.take() {
            Some(stream) => Ok(stream),
            None => connect(plan.address),
        }
        .and_then(|mut stream| exchange(&mut stream, request.as_bytes()).map(|()| stream));
        match answered {
            Ok(open) => {
                stream = Some(open);
                if due >= WARM_UP {
                    seen.latencies.push((start + due).elapsed());
                }
            }
            Err(_) => seen.failures += 1,
        }
    }
    seen
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Sends a request and reads its response, which must be a 200 with a `content-length`.
fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<()> {
    stream.write_all(request)?;
    let mut response = Vec::with_capacity(4096);
    let mut part = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut part)?;
        response.extend_from_slice(&part[..read]);
        if read == 0 || response.len() > RESPONSE_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(length) = response_length(&response)?
            && response.len() >= length
        {
            return Ok(());
        }
    }
}

/// Length of head and body together, once the head is there.
fn response_length(response: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = response.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&response[..end]).to_ascii_lowercase();
    let body = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    match body {
        Some(body) if head.starts_with("http/1.1 200") => Ok(Some(end + 4 + body)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn report(sorted: &[Duration], failures: u64) -> serde_json::Value {
    let micros = |share: f64| quantile(sorted, share).map(|latency| latency.as_secs_f64() * 1e6);
    json!({
        "requests": sorted.len(),
        "failures": failures,
        "p50": micros(0.5),
        "p90": micros(0.9),
        "p99": micros(0.99),
        "p999": micros(0.999),
        "max": micros(1.0),
    })
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Of a length times a share of at most 1.
fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().checked_sub(1)?)).copied()
}
