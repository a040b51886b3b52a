//! Streams after a plan of the runner: how many bytes, in pieces of which size, and who breaks off.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use roletalk::{Readable, Writable};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, sync::oneshot};

use crate::{Failure, observe, value::to_hex};

#[derive(Deserialize, Serialize)]
pub(crate) struct Plan {
    pub(crate) tag: String,
    size: usize,
    piece: usize,
    breaks: Option<Side>,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pauses: bool,
}

#[derive(Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Side {
    Reader,
    Writer,
}

impl Default for Plan {
    fn default() -> Plan {
        let tag = String::new();
        Plan {
            tag,
            size: 1 << 22,
            piece: 1 << 16,
            breaks: None,
            reason: String::new(),
            pauses: false,
        }
    }
}

/// All streams of the player, by the tags of their plans.
#[derive(Default)]
pub(crate) struct Streams {
    paused: Mutex<HashMap<String, oneshot::Sender<()>>>,
    /// Bytes that the writers have got rid of.
    progress: Mutex<HashMap<String, usize>>,
}

impl Streams {
    /// Reads to the end, or breaks off or pauses after the first piece when the plan says so.
    pub(crate) async fn read(&self, mut stream: Readable, plan: &Plan) -> Result<Value, Failure> {
        let mut hash = Sha256::new();
        let mut bytes = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            let first = bytes == 0;
            bytes += piece.len();
            hash.update(&piece);
            if plan.breaks == Some(Side::Reader) {
                stream.abort(&plan.reason);
                return Err(plan.reason.as_str().into());
            }
            if plan.pauses && first {
                self.pause(plan).await;
            }
        }
        Ok(json!({ "bytes": bytes, "sha256": to_hex(&hash.finalize()) }))
    }

    /// Writes what the plan says, or breaks off after it.
    pub(crate) async fn write(&self, mut stream: Writable, plan: &Plan) -> Result<Value, Failure> {
        let mut hash = Sha256::new();
        let mut at = 0;
        self.advance(plan, at);
        while at < plan.size {
            let piece = pattern(at, plan.piece.min(plan.size - at));
            hash.update(&piece);
            stream.write_all(&piece).await?;
            at += piece.len();
            self.advance(plan, at);
        }
        if plan.breaks == Some(Side::Writer) {
            stream.abort(&plan.reason);
            return Err(plan.reason.as_str().into());
        }
        stream.shutdown().await?;
        Ok(json!({ "bytes": at, "sha256": to_hex(&hash.finalize()) }))
    }

    /// Lets a reader that pauses go on.
    pub(crate) fn resume(&self, tag: &str) -> Result<(), Failure> {
        let paused = lock(&self.paused).remove(tag).ok_or("this stream does not pause")?;
        paused.send(()).map_err(|()| "this stream is over".into())
    }

    pub(crate) fn progress(&self, tag: &str) -> Result<usize, Failure> {
        Ok(*lock(&self.progress).get(tag).ok_or("no such stream")?)
    }

    async fn pause(&self, plan: &Plan) {
        let (resume, resumed) = oneshot::channel();
        lock(&self.paused).insert(plan.tag.clone(), resume);
        observe("paused", json!({ "tag": plan.tag }));
        resumed.await.expect("it is kept until the stream goes on");
    }

    fn advance(&self, plan: &Plan, bytes: usize) {
        lock(&self.progress).insert(plan.tag.clone(), bytes);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no player panics")
}

/// The bytes of all streams: their position modulo a prime.
fn pattern(at: usize, length: usize) -> Vec<u8> {
    (0..251).cycle().skip(at % 251).take(length).collect()
}
