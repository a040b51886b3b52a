//! Requests, messages and streams between two processes over loopback: this crate through its
//! public API, beside a bare TCP echo and a bare tokio-tungstenite echo, all in one run.
//!
//! This program is all three processes: the one that is started directs the others, which it
//! starts from the same file as server and client of one system. Systems take turns within each
//! round, so that whatever else the machine does hits all of them.

#[path = "../common/mod.rs"]
mod common;

mod bare_tcp;
mod bare_ws;
mod child;
mod direct;
mod ours;
mod process;
mod report;
mod system;

use system::Outcome;

const USAGE: &str = "\
cargo bench -p roletalk --bench field -- [--quick] [--pin] [FILTER...]

--quick   about 20 seconds instead of 3 minutes, rougher numbers
--pin     bind all clients to CPU 0 and all servers to CPU 1, for the throughput as well: without
          it the two sometimes share a CPU, which halves the rates and triples the spread
FILTER    parts of the names of what to measure: one-thread, two-threads, pinned, memory,
          and within the first two: requests, messages, stream";

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(child::SERVER) => child::server(&arguments[2..]),
        Some(child::CLIENT) => child::client(&arguments[2..]),
        _ => direct::run(&common::Options::parse(USAGE)),
    }
}
