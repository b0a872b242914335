//! What runs in pods of tests: applications that echo, and load on them.
//!
//! `serve` is [`Echo`] and [`TcpEcho`] on fixed ports until SIGTERM. `load` sends every kind of traffic until SIGTERM
//! or `stop`, prints what it has sent every second, and at the end one line with the first failures. `ask` sends one
//! GET, or some bytes, and prints what came back; its exit code is 0 for a 200. `show` prints a file.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use weft_tests::app::{Echo, TcpEcho};
use weft_tests::client::{Ask, http1};
use weft_tests::load::{Load, Tally, Targets};

/// How often the load says how far it is.
const REPORT: Duration = Duration::from_secs(1);

/// Failures that the last line tells: a line of a container's log is cut at 16 KiB.
const FAILURES_SHOWN: usize = 20;

#[derive(Debug, Parser)]
enum Command {
    /// Applications.
    Serve {
        /// What HTTP answers.
        #[arg(long)]
        name: String,
        /// Where HTTP/1, h2c and gRPC are served.
        #[arg(long, default_value = "[::]:8080")]
        http: String,
        /// Where bytes are echoed, after nothing: the client speaks first.
        #[arg(long, default_value = "[::]:9000")]
        tcp: String,
        /// Where bytes are echoed after a banner: the server speaks first.
        #[arg(long, default_value = "[::]:9001")]
        banner: String,
    },
    /// Load on applications that are dialled by their names.
    Load {
        /// `HOST:PORT` for HTTP/1.
        #[arg(long)]
        http1: String,
        /// `HOST:PORT` for HTTP/2 and gRPC.
        #[arg(long)]
        http2: String,
        /// `HOST:PORT` for TCP.
        #[arg(long)]
        tcp: String,
        /// How many of each kind of traffic run side by side.
        #[arg(long, default_value_t = 1)]
        width: usize,
    },
    /// Ends the load that is process 1 here.
    Stop,
    /// One request.
    #[command(subcommand)]
    Ask(Question),
    /// Prints a file.
    Show {
        /// Which one.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Question {
    /// GET / over HTTP/1.
    Http {
        /// `HOST:PORT`
        authority: String,
    },
    /// Sends bytes and wants them back; with a banner that is read first.
    Tcp {
        /// `HOST:PORT`
        authority: String,
        /// What the server says first.
        #[arg(long, default_value = "")]
        banner: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), String> {
    match Command::parse() {
        Command::Serve {
            name,
            http,
            tcp,
            banner,
        } => {
            let echo = Echo::on(bind(&http).await?, &name);
            let _others = (
                TcpEcho::on(bind(&tcp).await?, ""),
                TcpEcho::on(bind(&banner).await?, "hello"),
            );
            terminated().await?;
            echo.leave().await;
            Ok(())
        }
        Command::Load {
            http1,
            http2,
            tcp,
            width,
        } => {
            let targets = Targets {
                proxy: None,
                http1,
                http2,
                tcp: Some(tcp),
                stays: false,
                upgrade: None,
            };
            load(&targets, width).await
        }
        Command::Stop => kill_process(Pid::INIT, Signal::TERM).map_err(|error| error.to_string()),
        Command::Ask(Question::Http { authority }) => ask(&authority).await,
        Command::Ask(Question::Tcp { authority, banner }) => ask_tcp(&authority, &banner).await,
        Command::Show { file } => {
            let content = std::fs::read_to_string(&file);
            print!(
                "{}",
                content.map_err(|error| format!("{}: {error}", file.display()))?
            );
            Ok(())
        }
    }
}

async fn bind(address: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("can't listen on {address}: {error}"))
}

async fn terminated() -> Result<(), String> {
    let mut terms = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    terms.recv().await;
    Ok(())
}

async fn load(targets: &Targets, width: usize) -> Result<(), String> {
    let load = Load::wide(targets, width);
    let mut ticks = tokio::time::interval(REPORT);
    let stopped = terminated();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            result = &mut stopped => break result?,
            _ = ticks.tick() => println!("{}", serde_json::json!({ "sent": load.sent(), "failed": load.failed() })),
        }
    }
    let Tally { sent, failures, .. } = load.stop().await;
    let shown = &failures[..failures.len().min(FAILURES_SHOWN)];
    let total = serde_json::json!({ "sent": sent, "failed": failures.len(), "failures": shown });
    println!("{}", serde_json::json!({ "total": total }));
    Ok(())
}

async fn ask(authority: &str) -> Result<(), String> {
    let address = tokio::net::lookup_host(authority)
        .await
        .map_err(|error| format!("{authority}: {error}"))?
        .next()
        .ok_or("no address")?;
    let answer = http1(address, Ask::get("/").header("host", authority)).await;
    let answer = answer.map_err(|error| format!("no answer: {error}"))?;
    println!("{} {:?} {}", answer.status, answer.proxy_status(), answer.text());
    if answer.status == http::StatusCode::OK {
        Ok(())
    } else {
        Err(format!("{authority} answered {}", answer.status))
    }
}

async fn ask_tcp(authority: &str, banner: &str) -> Result<(), String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let failed = |error: std::io::Error| format!("{authority}: {error}");
    let mut stream = tokio::net::TcpStream::connect(authority).await.map_err(failed)?;
    let mut said = vec![0; banner.len()];
    stream.read_exact(&mut said).await.map_err(failed)?;
    stream.write_all(b"ping").await.map_err(failed)?;
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.map_err(failed)?;
    println!(
        "{} {}",
        String::from_utf8_lossy(&said),
        String::from_utf8_lossy(&back)
    );
    if said == banner.as_bytes() && &back == b"ping" {
        Ok(())
    } else {
        Err("other bytes came back".to_owned())
    }
}
