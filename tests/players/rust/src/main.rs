//! The player for the Rust crate: commands on stdin, observations on stdout. See `tests/README.md`
//! for the protocol. `certificate` as the only argument prints a certificate for localhost instead.

mod commands;
mod events;
mod flow;
mod roles;
mod streams;
mod value;

use std::process::ExitCode;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::commands::Player;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let ended = match std::env::args().nth(1).as_deref() {
        None => play().await,
        Some("certificate") => print_certificate(),
        Some(other) => Err(format!("unknown argument {other}").into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn play() -> Result<(), Failure> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let first = lines.next_line().await?.ok_or("no command")?;
    let first: Value = serde_json::from_str(&first)?;
    let player = Player::start(&first)?;
    println!("{}", json!({ "id": first["id"], "result": null }));
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        let player = player.clone();
        tokio::spawn(async move {
            let id = &command["id"];
            println!(
                "{}",
                match player.run(&command).await {
                    Ok(result) => json!({ "id": id, "result": result }),
                    Err(error) => failed(id, &error),
                }
            );
        });
    }
    Ok(())
}

/// What is told of an error: of one of the crate's also its kind, and what the handler has said.
fn failed(id: &Value, error: &Failure) -> Value {
    let mut told = json!({ "id": id, "error": error.to_string() });
    if let Some(error) = error.downcast_ref::<roletalk::Error>() {
        told["kind"] = error.kind().name().into();
        told["code"] = error.code().into();
        told["data"] = error.parse_data().ok().flatten().unwrap_or_default();
        told["retry"] = error.retry_after().map(|time| time.as_millis() as u64).into();
        told["unhandled"] = error.is_unhandled().into();
    }
    told
}

fn print_certificate() -> Result<(), Failure> {
    let made = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()])?;
    let pem = json!({ "cert": made.cert.pem(), "key": made.signing_key.serialize_pem() });
    println!("{pem}");
    Ok(())
}

/// Tells the runner that something happened.
fn observe(event: &str, mut fields: Value) {
    fields["event"] = event.into();
    println!("{fields}");
}
