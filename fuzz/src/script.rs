//! What the target `request` runs: calls, one a line.
//!
//! ```text
//! admin KeyVault/CreateKey {key_id:"a" provider:"openai" secret:{text:"fuzz-secret-canary-1"}}
//! wait 3600
//! neighbour KeyVault/GetKey 0x0a01
//! admin KeyVault/ImportKeys {}
//! + {skip_existing:true}
//! ```
//!
//! A message is in the text format of protobuf, or as hexadecimal bytes where it is none; `+` is
//! the next message of the same call. A text `{{etag}}` stands for the last `etag` that an answer
//! held, and so for every field of an answer; `{{long 300}}` for one of 300 bytes. `wait` moves the vault's clock on by seconds. A line
//! that is none of this is passed over: what is left of a line that chance changed.

use std::fmt;

use data_encoding::HEXLOWER;
use prost_reflect::{DynamicMessage, prost::Message as _};

use crate::schema::{self, Rpc};

/// The most steps that are run.
pub const STEPS_MAX: usize = 24;
/// The most messages of one call.
pub const MESSAGES_MAX: usize = 8;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    /// Every ordinary scope in the organization `acme`.
    Admin,
    /// Reads and lists in `acme` what is labelled for him.
    Reader,
    /// Everything in `acme`, with a mock token.
    Mock,
    /// Every ordinary scope in the organization `beta`.
    Neighbour,
    /// The scopes of the organization `system`.
    Operator,
    /// A certificate, and no token.
    Nobody,
}

impl Caller {
    pub const ALL: [Self; 6] = [Self::Admin, Self::Reader, Self::Mock, Self::Neighbour, Self::Operator, Self::Nobody];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Reader => "reader",
            Self::Mock => "mock",
            Self::Neighbour => "neighbour",
            Self::Operator => "operator",
            Self::Nobody => "nobody",
        }
    }
}

/// One line, with the lines that belong to it.
#[derive(Clone, Debug)]
pub enum Step {
    /// The clock moves on by so many seconds.
    Wait(u64),
    /// A call.
    Call(Call),
}

/// A call with its messages, encoded.
#[derive(Clone, Debug)]
pub struct Call {
    pub caller: Caller,
    pub rpc: &'static Rpc,
    pub messages: Vec<Vec<u8>>,
}

/// The steps of `text`.
pub fn parse(text: &str) -> Vec<Step> {
    read(text).0
}

/// The lines of `text` that are passed over.
pub fn unread(text: &str) -> Vec<&str> {
    read(text).1
}

fn read(text: &str) -> (Vec<Step>, Vec<&str>) {
    let (mut steps, mut unread) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let taken = match line.strip_prefix("+ ") {
            Some(more) => further(&mut steps, more),
            None => step(line).filter(|_| steps.len() < STEPS_MAX).map(|step| steps.push(step)),
        };
        if taken.is_none() {
            unread.push(line);
        }
    }
    (steps, unread)
}

/// Another message of the last call.
fn further(steps: &mut [Step], text: &str) -> Option<()> {
    let Some(Step::Call(call)) = steps.last_mut() else { return None };
    let message = message(call.rpc, text).filter(|_| call.messages.len() < MESSAGES_MAX)?;
    call.messages.push(message);
    Some(())
}

fn step(line: &str) -> Option<Step> {
    if let Some(seconds) = line.strip_prefix("wait ") {
        return seconds.trim().parse().ok().map(Step::Wait);
    }
    let mut parts = line.splitn(3, ' ');
    let caller = parts.next()?;
    let caller = *Caller::ALL.iter().find(|known| known.name() == caller)?;
    let rpc = schema::find(parts.next()?)?;
    Some(Step::Call(Call { caller, rpc, messages: vec![message(rpc, parts.next()?)?] }))
}

fn message(rpc: &Rpc, text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x") {
        return HEXLOWER.decode(hex.as_bytes()).ok();
    }
    let fields = text.strip_prefix('{')?.strip_suffix('}')?;
    DynamicMessage::parse_text_format(rpc.request.clone(), fields).ok().map(|message| message.encode_to_vec())
}

/// A line for each step and message.
pub fn print(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(seconds) => write!(f, "wait {seconds}"),
            Self::Call(call) => {
                write!(f, "{} {} ", call.caller.name(), call.rpc.name())?;
                let messages: Vec<_> = call.messages.iter().map(|bytes| written(call.rpc, bytes)).collect();
                f.write_str(&messages.join("\n+ "))
            }
        }
    }
}

/// As text if that gives the same bytes again, else as hexadecimal.
fn written(rpc: &Rpc, bytes: &[u8]) -> String {
    let text = DynamicMessage::decode(rpc.request.clone(), bytes)
        .ok()
        .map(|message| format!("{{{}}}", message.to_text_format()));
    match text {
        Some(text) if message(rpc, &text).as_deref() == Some(bytes) => text,
        _ => format!("0x{}", HEXLOWER.encode(bytes)),
    }
}
