//! `weft shop`: one process of the sample system. Hidden: the demo starts these.
//!
//! On a leash (`--leash`), a process is led by its parent through stdin: the first line tells it where its sidecar
//! and the broker are, the end of stdin ends it. SIGTERM then only announces `{"stopping":true}`: the parent first
//! drains the sidecar, and the application serves on for as long as requests may reach it.

use std::io::{BufRead, stdin};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use http::uri::Authority;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use weft_ops::{announce, log, signal};
use weft_shop::app::{self, Listeners};
use weft_shop::client::Outbound;
use weft_shop::{Config, Service, broker, load};

#[derive(Debug, Subcommand)]
pub(crate) enum Shop {
    /// One replica of a service.
    App(App),
    /// The message broker.
    Broker(Broker),
    /// The load generator.
    Load(Load),
}

#[derive(Debug, Args)]
pub(crate) struct App {
    #[arg(long)]
    service: ServiceName,
    /// The name of this replica.
    #[arg(long)]
    replica: String,
    #[arg(long, default_value = "v1")]
    version: String,
    /// Where to listen for HTTP.
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// Where inventory listens for gRPC.
    #[arg(long, default_value = "127.0.0.1:0")]
    grpc: SocketAddr,
    /// A folder that the replicas of this service share.
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    led: Led,
}

#[derive(Debug, Args)]
pub(crate) struct Broker {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[command(flatten)]
    led: Led,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Requests per second.
    #[arg(long, default_value_t = 40)]
    rate: u32,
    /// What the ids of its requests begin with, other than those of any other run.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    led: Led,
}

#[derive(Debug, Args)]
struct Led {
    /// The sidecar's outbound port; without it others are dialled by their names, as in a pod.
    #[arg(long, env = "WEFT_SHOP_OUTBOUND")]
    outbound: Option<SocketAddr>,
    /// `HOST:PORT` of the broker, or the port that the sidecar opens for it.
    #[arg(long, env = "WEFT_SHOP_BROKER")]
    broker: Option<Authority>,
    /// Be led through stdin.
    #[arg(long)]
    leash: bool,
}

/// Where a process on a leash finds others: its first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Peers {
    /// The sidecar's outbound port.
    pub(crate) outbound: SocketAddr,
    /// The port that the sidecar opens for the broker.
    pub(crate) broker: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ServiceName {
    User,
    Product,
    Order,
    Payment,
    Inventory,
}

impl From<ServiceName> for Service {
    fn from(name: ServiceName) -> Self {
        match name {
            ServiceName::User => Self::User,
            ServiceName::Product => Self::Product,
            ServiceName::Order => Self::Order,
            ServiceName::Payment => Self::Payment,
            ServiceName::Inventory => Self::Inventory,
        }
    }
}

/// Runs it until it is told to stop.
pub(crate) fn run(shop: Shop) -> anyhow::Result<()> {
    log::init("warn")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match shop {
            Shop::App(app) => run_app(app).await,
            Shop::Broker(broker) => run_broker(broker).await,
            Shop::Load(load) => run_load(load).await,
        }
    })
}

async fn run_app(told: App) -> anyhow::Result<()> {
    let service = Service::from(told.service);
    let (http, address) = listen(told.http).await?;
    let mut addresses = json!({ "http": address });
    let mut listeners = Listeners { http, grpc: None };
    if service.offers_grpc() {
        let (grpc, address) = listen(told.grpc).await?;
        addresses["grpc"] = json!(address);
        listeners.grpc = Some(grpc);
    }
    announce::listening(&addresses);
    let (outbound, broker, stop) = led(told.led).await?;
    let config = Config {
        replica: told.replica,
        version: told.version,
        outbound,
        broker,
        data: told.data,
    };
    Ok(app::run(service, config, listeners, stop).await?)
}

async fn run_broker(told: Broker) -> anyhow::Result<()> {
    let (listener, address) = listen(told.listen).await?;
    announce::listening(&json!({ "mqtt": address }));
    let (.., stop) = led(told.led).await?;
    broker::serve(listener, stop).await;
    Ok(())
}

async fn run_load(told: Load) -> anyhow::Result<()> {
    announce::listening(&json!({}));
    let (outbound, _, stop) = led(told.led).await?;
    // Ids are unique over restarts, so that the journals tell executions of different runs apart.
    let name = told
        .name
        .unwrap_or_else(|| format!("load-{}", std::process::id()));
    let tally = load::run(&name, outbound, told.rate, stop).await;
    println!("{}", json!({ "tally": tally }));
    Ok(())
}

async fn listen(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Where requests go, where the broker is, and what stops the process.
async fn led(led: Led) -> anyhow::Result<(Outbound, Option<Authority>, CancellationToken)> {
    let stop = CancellationToken::new();
    let mut signals = signal::Signals::new()?;
    if !led.leash {
        let ended = stop.clone();
        tokio::spawn(async move {
            signals.next().await;
            ended.cancel();
        });
        let outbound = led.outbound.map_or(Outbound::Names, Outbound::Sidecar);
        return Ok((outbound, led.broker, stop));
    }
    let (first, line) = oneshot::channel();
    let ended = stop.clone();
    std::thread::spawn(move || follow_stdin(first, &ended));
    tokio::spawn(async move {
        loop {
            signals.next().await;
            println!("{}", json!({ "stopping": true }));
        }
    });
    let line = line.await.context("stdin ended before its first line")?;
    let Peers { outbound, broker } =
        serde_json::from_str(&line).context("the first line of stdin is not what it should be")?;
    let broker = broker.map(|broker| broker.to_string().parse()).transpose()?;
    Ok((Outbound::Sidecar(outbound), broker, stop))
}

/// Passes on the first line, and waits for the end of stdin. A thread of its own, which ends with the process: a read
/// from stdin can't be given up.
fn follow_stdin(first: oneshot::Sender<String>, ended: &CancellationToken) {
    let mut lines = stdin().lock().lines();
    if let Some(Ok(line)) = lines.next() {
        let _ = first.send(line);
    }
    while let Some(Ok(_)) = lines.next() {}
    ended.cancel();
}
