//! One task that owns what the control plane knows: the catalog of resources, the registrations, who is connected and
//! who acknowledged what. Everybody else sends it [`Command`]s; nothing here is shared or locked.
//!
//! Commands are taken in batches. After each batch the catalog says which resources changed, and only the streams that
//! follow one of those are told, through their [`Mailbox`], which holds one entry per name: a slow client costs
//! nothing but its own latency. A resource is encoded once per dialect and shared by all its streams.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use weft_api::validate::Finding;
use weft_control_plane_core::acks::StreamId;
use weft_control_plane_core::catalog::{Catalog, Event};
use weft_control_plane_core::conditions::ObjectStatus;
use weft_control_plane_core::registry::{self, HeartbeatId, Registration, Registry, Saved};
use weft_control_plane_core::resource::Kind;
use weft_control_plane_core::rights::{self, Account, Client};
use weft_control_plane_core::status::Count;
use weft_control_plane_core::stream::{Content, Interest, Receipt, Variant};

use crate::clock::Clock;

mod encoder;
mod hints;
mod mailbox;
mod report;
mod standing;
mod state;
#[cfg(test)]
mod tests;

pub use mailbox::{Mailbox, News};
use state::State;

/// Commands that wait; beyond it senders wait.
const COMMANDS_MAX: usize = 1_024;

/// Commands that are taken together.
const BATCH_MAX: usize = 256;

/// A stream that wants to begin.
#[derive(Debug)]
pub struct Hello {
    /// Its identity, from the verified certificate.
    pub account: Account,
    /// `node.id`.
    pub node_id: String,
    /// `node.user_agent_name`.
    pub user_agent: String,
    /// `node.user_agent_version`; empty: it doesn't say.
    pub version: String,
    /// Where Envoy's one listener binds.
    pub listen: Option<SocketAddr>,
    /// The connection's other end.
    pub peer: SocketAddr,
    /// The protocol's variant.
    pub variant: Variant,
}

/// A stream that was admitted.
#[derive(Debug)]
pub struct Admitted {
    /// Names it.
    pub stream: StreamId,
    /// Who it is.
    pub client: Client,
    /// What it follows, as it changes.
    pub mailbox: Arc<Mailbox>,
}

/// What the publisher is told or asked.
#[derive(Debug)]
pub enum Command {
    /// The world changed. `problems`: all that is not in force now.
    World {
        /// What changed.
        events: Vec<Event>,
        /// Whole list.
        problems: Vec<Finding>,
        /// Whether nothing is missing any longer: from then on proxies are answered.
        complete: bool,
    },
    /// The roots to trust are these now, DER.
    Trust(Vec<Arc<[u8]>>),
    /// A stream wants to begin.
    Open(Hello, oneshot::Sender<Result<Admitted, rights::Refusal>>),
    /// A stream follows other names now. They were checked.
    Follow(StreamId, Kind, Interest),
    /// A stream's client acknowledged something, or refused it.
    Receipts(StreamId, Kind, Vec<Receipt>),
    /// A stream has ended.
    Close(StreamId),
    /// A workload registers. Answers with the name of its heartbeat.
    Register(
        Box<Registration>,
        oneshot::Sender<Result<HeartbeatId, registry::Refusal>>,
    ),
    /// It reports its health.
    Health(HeartbeatId, bool),
    /// It goes.
    Withdraw(HeartbeatId),
    /// Its stream ended without a word.
    Lost(HeartbeatId),
    /// Who is connected and has what: for people.
    Clients(oneshot::Sender<Value>),
    /// What is in force: for people.
    Objects(oneshot::Sender<Value>),
    /// What is in force of each object with a status, and how far the proxies are, if anything happened since that
    /// revision (0: at all).
    Statuses(u64, oneshot::Sender<Option<Statuses>>),
    /// Which roots are published, and how far the proxies are that follow them.
    Roots(oneshot::Sender<RootsTaken>),
}

impl Command {
    /// Whether it only asks.
    fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Clients(_) | Self::Objects(_) | Self::Statuses(..) | Self::Roots(_)
        )
    }
}

/// The answer to [`Command::Roots`].
#[derive(Debug)]
pub struct RootsTaken {
    /// The roots, DER, ascending.
    pub roots: Vec<Arc<[u8]>>,
    /// How far the proxies of this replica are.
    pub count: Count,
}

/// The answer to [`Command::Statuses`].
#[derive(Debug)]
pub struct Statuses {
    /// Each object, ascending by name, with how far the proxies of this replica are.
    pub objects: Vec<(ObjectStatus, Count)>,
    /// When this was so.
    pub revision: u64,
}

/// Sends commands to the publisher.
#[derive(Clone, Debug)]
pub struct Publisher(mpsc::Sender<Command>);

/// The publisher has ended, and with it the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is ending")]
pub struct Ending;

impl Publisher {
    /// Sends a command.
    pub async fn send(&self, command: Command) -> Result<(), Ending> {
        self.0.send(command).await.map_err(|_| Ending)
    }

    /// Sends a question and waits for its answer.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Ending> {
        let (answer, answered) = oneshot::channel();
        self.send(question(answer)).await?;
        answered.await.map_err(|_| Ending)
    }
}

/// What the publisher begins with.
#[derive(Debug)]
pub struct Beginning {
    /// The catalog, with the roots in it.
    pub catalog: Catalog,
    /// Registrations, restored.
    pub registry: Registry,
    /// What restoring them changed.
    pub restored: Vec<registry::Change>,
    /// Where registrations go to be kept.
    pub saved: watch::Sender<Vec<Saved>>,
    /// The process's clock.
    pub clock: Clock,
}

/// Makes the publisher: a handle for everybody, and the task itself, which ends when all handles are gone. `loaded`
/// becomes true when the whole world is known for the first time; nobody should be answered before.
pub fn publisher(
    beginning: Beginning,
    loaded: watch::Sender<bool>,
) -> (Publisher, impl Future<Output = ()> + Send) {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    (Publisher(sender), run(State::new(beginning), commands, loaded))
}

async fn run(mut state: State, mut commands: mpsc::Receiver<Command>, loaded: watch::Sender<bool>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let expiry = state
            .registry
            .next_expiry()
            .map(|moment| state.clock.instant(moment));
        let expired = async {
            match expiry {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            taken = commands.recv_many(&mut batch, BATCH_MAX) => if taken == 0 { return },
            () = expired => {}
        }
        let changes = state.registry.expire(state.clock.now());
        state.registered(changes);
        let world = batch
            .iter()
            .any(|command| matches!(command, Command::World { complete: true, .. }));
        for command in batch.drain(..) {
            state.obey(command);
        }
        state.flush();
        if world {
            loaded.send_replace(true);
        }
    }
}

/// What a mailbox holds for a name.
type Update = Option<Content>;
