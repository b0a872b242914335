//! What others do on the same two sidecars: readers that stall, and one large transfer.
//!
//! The neighbour is one keep-alive client of small requests. Each round measures it alone, beside the others (once the
//! readers have stalled, until the transfer is done), and alone again; the claim is about the sidecars and not about
//! what else this machine does, so the best of the rounds counts. Application and clients are plain threads on blocking
//! sockets, to cost next to nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_tests::mesh::{Mesh, Sidecar, Spec};
use weft_tests::process::PATIENCE;

use crate::manifests::SERVICES;

const STALLED: usize = 200;
/// More than all buffers on the way hold, so that its reader does stall what sends it.
const STALLED_BYTES: usize = 64 << 20;
const TRANSFER_BYTES: usize = 256 << 20;
const ROUNDS: usize = 3;
/// Fewer would not tell a 99th percentile.
const SAMPLES_MIN: usize = 300;
/// Requests of the neighbour during which nothing of a large body moves, once its reader has stalled.
const SETTLED: usize = 100;
/// What both sidecars may grow by: the stalled streams' windows, twice, and room to spare.
const GROWTH_MAX: u64 = 192 << 20;
const CHUNK: usize = 256 << 10;

/// Chunks of large bodies that the application has written.
static MOVED: AtomicUsize = AtomicUsize::new(0);

/// Answers `/<n>` with that many bytes.
fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its thread.
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let zeros = vec![0; CHUNK];
    loop {
        let head = head(&mut stream)?;
        let path = head.split(' ').nth(1).and_then(|path| path.strip_prefix('/'));
        let bytes: usize = path.and_then(|path| path.parse().ok()).unwrap_or_default();
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes())?;
        let mut left = bytes;
        while left > 0 {
            let chunk = left.min(CHUNK);
            stream.write_all(&zeros[..chunk])?;
            left -= chunk;
            MOVED.fetch_add(usize::from(chunk == CHUNK), Ordering::Relaxed);
        }
    }
}

/// Reads a head to its end.
fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Connects, asks for so many bytes, and reads the head of the answer.
fn ask(stream: &mut TcpStream, bytes: usize) {
    stream
        .write_all(format!("GET /{bytes} HTTP/1.1\r\nHost: user\r\n\r\n").as_bytes())
        .expect("the sidecar reads");
    let head = head(stream).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

fn connect(proxy: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(proxy).expect("the sidecar listens");
    stream.set_nodelay(true).expect("TCP");
    stream.set_read_timeout(Some(PATIENCE)).expect("TCP");
    stream
}

/// Reads so many bytes.
fn drain(stream: &mut TcpStream, mut bytes: usize) {
    let mut buffer = vec![0; CHUNK];
    while bytes > 0 {
        let read = stream
            .read(&mut buffer[..bytes.min(CHUNK)])
            .expect("the body goes on");
        assert!(read > 0, "the body ended {bytes} bytes early");
        bytes -= read;
    }
}

/// One small request.
fn small(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    ask(stream, 2);
    drain(stream, 2);
    started.elapsed()
}

fn p99(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples[samples.len() * 99 / 100]
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("Linux tells it");
    let kib: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number of KiB");
    kib << 10
}

/// So many small requests.
fn smalls(stream: &mut TcpStream, count: usize) -> Vec<Duration> {
    (0..count).map(|_| small(stream)).collect()
}

/// Readers whose answers do not move any more.
fn stalled(proxy: SocketAddr, neighbour: &mut TcpStream) -> Vec<TcpStream> {
    let mut stalled: Vec<TcpStream> = (0..STALLED).map(|_| connect(proxy)).collect();
    for stream in &mut stalled {
        ask(stream, STALLED_BYTES);
    }
    let mut moved = None;
    while moved != Some(MOVED.load(Ordering::Relaxed)) {
        moved = Some(MOVED.load(Ordering::Relaxed));
        smalls(neighbour, SETTLED);
    }
    stalled
}

/// The neighbour's p99 beside the others and alone, and how often it was measured beside them.
fn round(proxy: SocketAddr, memory: &mut impl FnMut()) -> (Duration, Duration, usize) {
    let mut neighbour = connect(proxy);
    small(&mut neighbour);
    let mut alone = smalls(&mut neighbour, SAMPLES_MIN);
    let stalled = stalled(proxy, &mut neighbour);
    let transfer = thread::spawn(move || {
        let mut stream = connect(proxy);
        ask(&mut stream, TRANSFER_BYTES);
        drain(&mut stream, TRANSFER_BYTES);
    });
    let mut beside = Vec::new();
    while !transfer.is_finished() {
        beside.push(small(&mut neighbour));
        if beside.len() % 100 == 0 {
            memory();
        }
    }
    transfer.join().expect("the transfer is whole");
    memory();
    drop(stalled);
    alone.extend(smalls(&mut neighbour, SAMPLES_MIN));
    (p99(&mut beside), p99(&mut alone), beside.len())
}

#[tokio::test]
async fn stalled_readers_and_a_large_transfer_leave_a_neighbour_alone() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let server = mesh
        .sidecar(&Spec::new("shop", "user", "user-0").serves("user:80", application()))
        .await;
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;
    let pid = |sidecar: &Sidecar| sidecar.process.pid();
    let (proxy, pids) = (client.outbound, [pid(&client), pid(&server)]);
    let measured = tokio::task::spawn_blocking(move || {
        drain(
            &mut {
                let mut warm = connect(proxy);
                ask(&mut warm, CHUNK);
                warm
            },
            CHUNK,
        );
        let before = pids.map(resident);
        let mut grown = [0; 2];
        let mut memory = || {
            for ((pid, before), grown) in pids.into_iter().zip(before).zip(&mut grown) {
                *grown = resident(pid).saturating_sub(before).max(*grown);
            }
        };
        let rounds: Vec<_> = (0..ROUNDS).map(|_| round(proxy, &mut memory)).collect();
        (rounds, grown)
    });
    let (rounds, grown) = measured.await.expect("all was read");
    println!(
        "p99 beside, alone, samples: {rounds:?}; memory grew by {:?} KiB",
        grown.map(|bytes| bytes >> 10)
    );
    assert!(
        grown.iter().all(|bytes| *bytes <= GROWTH_MAX),
        "client and server grew by {grown:?} bytes"
    );
    assert!(
        rounds.iter().all(|(_, _, samples)| *samples >= SAMPLES_MIN),
        "{rounds:?}"
    );
    assert!(
        rounds.iter().any(|(beside, alone, _)| *beside <= *alone * 2),
        "p99 beside, alone, samples: {rounds:?}"
    );
}
