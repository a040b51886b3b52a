//! The engine alone, in memory: how much two engines that are joined by byte pipes get done in one
//! thread, and how the cost of a message grows with the number of roles and units, in the engine
//! and in the async API.

#[path = "../common/mod.rs"]
mod common;

mod api;
mod cancel;
mod chain;
mod choice;
mod growth;
mod hub;
mod policy;
mod throughput;

use std::error::Error;

use common::{Options, print_targets};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "\
cargo bench -p roletalk --bench engine -- [--quick] [FILTER...]

--quick   a few seconds instead of one minute, rougher numbers
FILTER    parts of the names of what to measure: throughput, growth, api, cancel, chain,
          choice, policy;
          or of the rows of throughput: messages, requests, stream";

fn main() -> Outcome<()> {
    let options = Options::parse(USAGE);
    println!("{}", common::machine());
    println!("engine: everything in one thread of one process, no sockets; medians");
    throughput::run(&options)?;
    let mut targets = Vec::new();
    if options.wants("growth") {
        targets.extend(growth::run(&options)?);
    }
    if options.wants("api") {
        targets.extend(api::run(&options)?);
    }
    if options.wants("cancel") {
        targets.extend(cancel::run(&options)?);
    }
    if options.wants("chain") {
        targets.extend(chain::run(&options)?);
    }
    if options.wants("choice") {
        targets.extend(choice::run(&options)?);
    }
    if options.wants("policy") {
        targets.extend(policy::run(&options)?);
    }
    print_targets(&targets);
    Ok(())
}
