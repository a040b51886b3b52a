//! Streams after a plan of the runner: how many bytes, in pieces of which size, and who breaks off.

use roletalk::{Readable, Writable};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::{Failure, value::to_hex};

#[derive(Deserialize, Serialize)]
pub(crate) struct Plan {
    size: usize,
    piece: usize,
    breaks: Option<Side>,
}

#[derive(Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Side {
    Reader,
    Writer,
}

/// Reads to the end, or breaks off after the first piece when the plan says so.
pub(crate) async fn read(mut stream: Readable, plan: &Plan) -> Result<Value, Failure> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        bytes += piece.len();
        hash.update(&piece);
        if plan.breaks == Some(Side::Reader) {
            stream.abort("the reader gave up");
            return Err("the reader gave up".into());
        }
    }
    Ok(json!({ "bytes": bytes, "sha256": to_hex(&hash.finalize()) }))
}

/// Writes what the plan says, or breaks off behind it.
pub(crate) async fn write(mut stream: Writable, plan: &Plan) -> Result<Value, Failure> {
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < plan.size {
        let piece = pattern(at, plan.piece.min(plan.size - at));
        hash.update(&piece);
        stream.write_all(&piece).await?;
        at += piece.len();
    }
    if plan.breaks == Some(Side::Writer) {
        stream.abort("the writer gave up");
        return Err("the writer gave up".into());
    }
    stream.shutdown().await?;
    Ok(json!({ "bytes": at, "sha256": to_hex(&hash.finalize()) }))
}

/// The bytes of all streams: their position modulo a prime.
fn pattern(at: usize, length: usize) -> Vec<u8> {
    (0..251).cycle().skip(at % 251).take(length).collect()
}
