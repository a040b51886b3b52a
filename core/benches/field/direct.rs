//! The process that directs the others: which system does what, and when.

use std::{thread::sleep, time::Duration};

use crate::{
    child::Command,
    common::{self, Options},
    process::{Pair, Sample, Setting},
    report::{self, Report},
    system::{Outcome, System},
};

const ONE_THREAD: &str = "one-thread";
const TWO_THREADS: &str = "two-threads";

/// Something to measure.
#[derive(Clone, Copy)]
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) command: Command,
}

pub(crate) fn run(options: &Options) -> Outcome<()> {
    println!("{}", common::machine());
    println!(
        "field: two processes on loopback, systems taking turns; medians; in brackets the median \
         of the ratios to tungstenite in the same round"
    );
    let mut report = Report::default();
    for (name, threads, rounds) in
        [(ONE_THREAD, 1, options.pick(3, 7)), (TWO_THREADS, 2, options.pick(1, 3))]
    {
        // A filter may name a table, measurements, or both.
        let all = options.wants(name);
        let chosen: Vec<Measure> = measures(options)
            .into_iter()
            .filter(|measure| all || options.wants(measure.name))
            .collect();
        if chosen.is_empty() || !all && threads > 1 {
            continue;
        }
        let setting = Setting { threads, cpus: options.pin.then_some((0, 1)) };
        let samples = measure(&System::ALL, setting, &chosen, rounds)?;
        report.throughput(threads, &chosen, &samples);
    }
    if options.wants("pinned") {
        pinned(options, &mut report)?;
    }
    if options.wants("memory") {
        memory(options, &mut report)?;
    }
    report.targets();
    Ok(())
}

fn measures(options: &Options) -> Vec<Measure> {
    let time = options.pick(Duration::from_millis(120), Duration::from_millis(500));
    let requests = |name, size, window| spread(name, size, window, 1, time);
    vec![
        requests(report::ONE, 32, 1),
        requests("requests 32 B, 16 in flight", 32, 16),
        requests(report::SIXTY_FOUR, 32, 64),
        requests(report::MANY, 32, 256),
        requests("requests 4 KiB, 64 in flight", 4096, 64),
        spread("requests 32 B, 8 x 16 in flight", 32, 16, 8, time),
        spread("requests 32 B, 64 x 4 in flight", 32, 4, 64, time),
        Measure { name: "messages 32 B", command: Command::Messages { size: 32, time } },
        Measure {
            name: report::STREAM,
            command: Command::Stream { bytes: options.pick(128 << 20, 1 << 30) },
        },
    ]
}

/// Requests on several connections.
fn spread(
    name: &'static str,
    size: usize,
    window: usize,
    connections: usize,
    time: Duration,
) -> Measure {
    Measure { name, command: Command::Requests { size, window, connections, time } }
}

/// Samples by measurement, system and round.
pub(crate) type Samples = Vec<Vec<Vec<Sample>>>;

/// Runs the measurements in rounds. Each round has processes of its own, so that the luck of how
/// memory was laid out changes as well.
fn measure(
    systems: &[System],
    setting: Setting,
    measures: &[Measure],
    rounds: usize,
) -> Outcome<Samples> {
    let mut samples = vec![vec![Vec::new(); systems.len()]; measures.len()];
    for round in 0..rounds {
        let mut pairs = Vec::new();
        for system in systems {
            let mut pair = Pair::start(*system, setting)?;
            let time = Duration::from_millis(20);
            pair.run(Command::Requests { size: 32, window: 64, connections: 1, time })?;
            // Connecting is no part of what is measured.
            for measure in measures {
                if let Command::Requests { size, window, connections: connections @ 2.., .. } =
                    measure.command
                {
                    pair.run(Command::Requests { size, window, connections, time })?;
                }
            }
            pairs.push(pair);
        }
        for (measure, samples) in measures.iter().zip(&mut samples) {
            for turn in 0..pairs.len() {
                // Another one begins each round.
                let at = (turn + round) % pairs.len();
                samples[at].push(pairs[at].run(measure.command)?);
            }
        }
    }
    Ok(samples)
}

/// Latency with the processes bound to CPUs: without that it jumps with their placement.
fn pinned(options: &Options, report: &mut Report) -> Outcome<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let time = options.pick(Duration::from_millis(100), Duration::from_millis(400));
    let one = [spread(report::ONE, 32, 1, 1, time)];
    let rounds = options.pick(3, 7);
    for (name, cpus) in [("both on one CPU", (0, 0)), ("on two CPUs", (0, 1))]
        .into_iter()
        .filter(|(_, (_, last))| *last < cpus)
    {
        let setting = Setting { threads: 1, cpus: Some(cpus) };
        match measure(&System::BASIC, setting, &one, rounds) {
            Ok(samples) => report.pinned(name, &samples[0]),
            Err(error) => println!("not pinned ({name}), is there no taskset? {error}"),
        }
    }
    Ok(())
}

/// What an idle connection costs a server.
fn memory(options: &Options, report: &mut Report) -> Outcome<()> {
    let connections = options.pick(500, 2000);
    // Two heartbeats of this crate go by: they are part of being idle.
    let rest = options.pick(Duration::from_secs(1), Duration::from_secs(11));
    let mut pairs = Vec::new();
    for system in System::BASIC {
        let mut pair = Pair::start(system, Setting { threads: 1, cpus: None })?;
        // What comes with the first ones does not count.
        pair.run(Command::Idle { connections: 50 })?;
        let before = pair.server_memory()?;
        pair.run(Command::Idle { connections })?;
        pairs.push((pair, before));
    }
    sleep(rest);
    let mut each = Vec::new();
    for (pair, before) in &pairs {
        let grown = pair.server_memory()?.saturating_sub(*before);
        each.push(grown as f64 / connections as f64 / 1024.0);
    }
    report.memory(connections, &each);
    Ok(())
}
