//! The kernel's side: a netlink socket, and what its answers mean.

use std::io;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use weft_proxy_core::capture::{Chain, Ruleset, TABLE};

use super::decode;
use super::encode::{self, Batch};
use super::numbers::kind;
use super::wire::{Message, Messages, native_u32};

/// `AF_NETLINK`.
const NETLINK: i32 = 16;
/// `NETLINK_NETFILTER`.
const NETFILTER: i32 = 12;
/// Largest datagram that is read. The kernel sends at most 32 KiB.
const MAX_DATAGRAM: usize = 64 * 1024;
/// How long an answer may take: loading the kernel's modules is part of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Room for a batch on its way.
const SEND_BUFFER: usize = 1024 * 1024;

/// Why the kernel does not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No right to change the network namespace.
    #[error(
        "no right to change packet filter rules (EPERM): it takes CAP_NET_ADMIN in the network namespace; does the \
         container have `securityContext.capabilities.add: [NET_ADMIN]` and run as root, and does the namespace's Pod \
         Security level allow that?"
    )]
    Rights,
    /// No `nf_tables`.
    #[error(
        "this kernel has no nf_tables ({0}): capture needs CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET and CONFIG_NFT_NAT, \
         Linux 5.2 or newer; is the module nf_tables loaded on the node?"
    )]
    NoTables(io::Error),
    /// A part of `nf_tables` is missing.
    #[error(
        "this kernel does not take the {purpose} ({source}): a part of nf_tables is missing; are the modules nft_chain_nat, \
         nft_redir, nft_ct and nft_reject_inet available on the node, and is it Linux 5.2 or newer?"
    )]
    Unsupported {
        /// What it was about.
        purpose: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// Anything else about one part.
    #[error("the kernel refuses the {purpose}: {source}")]
    Refused {
        /// What it was about.
        purpose: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// Not ours.
    #[error(
        "chain {chain} of table inet {TABLE} holds a rule that this version does not write; `nft list table inet {TABLE}` \
         shows it, and init without --show puts ours in its place"
    )]
    Foreign {
        /// Where.
        chain: String,
    },
    /// The socket.
    #[error("the kernel can't be talked to about packet filter rules: {0}")]
    Socket(#[from] io::Error),
}

/// Puts `ruleset` in force, in the place of what [`TABLE`] held. At once: no packet sees a part of it.
pub fn install(ruleset: &Ruleset) -> Result<(), CaptureError> {
    ask(&encode::replace(ruleset), |_| {})
}

/// Takes [`TABLE`] away with all that is in it; does nothing where it isn't there.
pub fn remove() -> Result<(), CaptureError> {
    ask(&encode::remove(), |_| {})
}

/// What [`TABLE`] holds; `None` where it isn't there.
pub fn installed() -> Result<Option<Ruleset>, CaptureError> {
    let mut chains: Vec<Chain> = Vec::new();
    ask(&encode::list(kind::GET_CHAIN), |message| {
        chains.extend(decode::chain(&message.attributes()));
    })?;
    let mut foreign = None;
    ask(&encode::list(kind::GET_RULE), |message| {
        let Some((of, rule)) = decode::rule(&message.attributes()) else {
            return;
        };
        match (chains.iter_mut().find(|chain| chain.name == of), rule) {
            (Some(chain), Some(rule)) => chain.rules.push(rule),
            _ => foreign = Some(of.to_owned()),
        }
    })?;
    match foreign {
        Some(chain) => Err(CaptureError::Foreign { chain }),
        None => Ok((!chains.is_empty()).then_some(Ruleset { chains })),
    }
}

fn open() -> Result<Socket, CaptureError> {
    let opened = Socket::new(Domain::from(NETLINK), Type::RAW, Some(Protocol::from(NETFILTER)));
    let socket = opened.map_err(|error| match error.raw_os_error() {
        Some(code::NO_FAMILY | code::NO_PROTOCOL) => CaptureError::NoTables(error),
        _ => CaptureError::Socket(error),
    })?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    Ok(socket)
}

/// Sends `batch` and hands every message of the answer to `take`, until the last one.
fn ask(batch: &Batch, mut take: impl FnMut(Message<'_>)) -> Result<(), CaptureError> {
    let socket = open()?;
    // A socket that was never connected speaks to the kernel.
    let sent = socket.send(&batch.bytes)?;
    if sent != batch.bytes.len() {
        return Err(io::Error::from(io::ErrorKind::WriteZero).into());
    }
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        for message in Messages(receive(&socket, &mut buffer)?) {
            match message.kind {
                kind::DONE => return Ok(()),
                kind::ANSWER => {
                    let code = native_u32(message.body, 0).unwrap_or_default().cast_signed();
                    if code != 0 {
                        return Err(refusal(code.wrapping_neg(), batch, message.sequence));
                    }
                    if message.sequence == batch.acknowledged {
                        return Ok(());
                    }
                }
                _ => take(message),
            }
        }
    }
}

fn receive<'a>(socket: &Socket, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut reader = socket;
    let length = io::Read::read(&mut reader, buffer)?;
    Ok(&buffer[..length])
}

/// The numbers of errors that mean something in particular here (errno(3)).
mod code {
    pub(super) const PERMISSION: i32 = 1;
    pub(super) const NO_ENTRY: i32 = 2;
    pub(super) const NO_PROTOCOL: i32 = 93;
    pub(super) const NOT_SUPPORTED: i32 = 95;
    pub(super) const NO_FAMILY: i32 = 97;
}

fn refusal(number: i32, batch: &Batch, sequence: u32) -> CaptureError {
    let index = usize::try_from(sequence).unwrap_or(usize::MAX);
    let purpose = batch.purposes.get(index);
    let purpose = purpose.cloned().unwrap_or_else(|| format!("table inet {TABLE}"));
    let source = io::Error::from_raw_os_error(number);
    match number {
        code::PERMISSION => CaptureError::Rights,
        // The answer to the batch as a whole: there is nobody to take it.
        code::NOT_SUPPORTED | code::NO_ENTRY if index == 0 => CaptureError::NoTables(source),
        code::NOT_SUPPORTED | code::NO_ENTRY | code::NO_FAMILY => {
            CaptureError::Unsupported { purpose, source }
        }
        _ => CaptureError::Refused { purpose, source },
    }
}
