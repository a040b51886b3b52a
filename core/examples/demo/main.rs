//! Several processes that find each other and work, and a director that checks every step.
//!
//! ```sh
//! cargo run -p roletalk --example demo            # or: make demo
//! ```
//!
//! The director starts this same program once for each player, or `player.py` for one of them when
//! `ROLETALK_DEMO_PYTHON` names a Python that has the package, and for another one the program that
//! `ROLETALK_DEMO_C` names, which is `bindings-c/examples/demo_player.c` (see [`player`] for the lines that they
//! understand: a player can be written in any language), tells them what to do, and checks what they
//! saw. It exits with 0 only if every check passed. The players end with it in every case: they
//! are killed when it fails, panics or is interrupted, and by themselves when their standard input
//! ends.

mod actor;
mod player;
mod report;
mod story;

use std::{process::ExitCode, time::Duration};

/// The whole demo takes a few seconds. This is only there to fail.
const LIMIT: Duration = Duration::from_secs(60);

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => direct().await,
        [player, name, directory] if player == "--player" => {
            match player::run(name, directory.as_ref()).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{name}: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        _ => {
            eprintln!("usage: demo [--player NAME DIRECTORY]");
            ExitCode::from(2)
        }
    }
}

async fn direct() -> ExitCode {
    let mut report = report::Report::new();
    // What is behind the story is dropped before the outcome is told: players included.
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(LIMIT, story::play(&mut report)) => {
            outcome.unwrap_or_else(|_| Err(format!("not finished after {LIMIT:?}").into()))
        }
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    report.end(&outcome);
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
