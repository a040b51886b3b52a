//! From samples to tables.

use crate::{
    common::{Table, Target, median, number, print_targets, spread},
    direct::{Measure, Samples},
    process::Sample,
    system::System,
};

pub(crate) const ONE: &str = "requests 32 B, 1 in flight";
pub(crate) const SIXTY_FOUR: &str = "requests 32 B, 64 in flight";
pub(crate) const MANY: &str = "requests 32 B, 256 in flight";
pub(crate) const STREAM: &str = "stream, 64 KiB pieces";

/// Where the bare tokio-tungstenite echo stands among the systems.
const BASE: usize = 1;
const OURS: usize = 2;
/// tokio-tungstenite with an awaited call for each request, as this crate has it.
const AWAITED: usize = 4;

#[derive(Default)]
pub(crate) struct Report {
    targets: Vec<Target>,
}

type Value = fn(&Sample) -> f64;

/// The median of the ratios to the base in the same round.
fn ratio(samples: &[Vec<Sample>], system: usize, value: impl Fn(&Sample) -> f64) -> f64 {
    let rounds = samples[system].iter().zip(&samples[BASE]);
    median(rounds.map(|(sample, base)| value(sample) / value(base)))
}

fn middle(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    median(samples.iter().map(value))
}

fn micros(time: std::time::Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// A value with its ratio to the base.
fn cell(samples: &[Vec<Sample>], system: usize, value: impl Fn(&Sample) -> f64) -> String {
    let own = number(middle(&samples[system], &value));
    match system {
        BASE => own,
        _ => format!("{own} (×{:.2})", ratio(samples, system, value)),
    }
}

impl Report {
    pub(crate) fn throughput(&mut self, threads: usize, measures: &[Measure], samples: &Samples) {
        let runtime = match threads {
            1 => "current-thread runtimes".to_owned(),
            threads => format!("multi-thread runtimes, {threads} workers each"),
        };
        let head = ["per second"].into_iter().chain(System::ALL.map(System::name));
        let mut rates = Table::new(head.chain(["spread"]));
        let head = ["CPU µs each, client + server"].into_iter();
        let mut cpu = Table::new(head.chain(System::ALL.map(System::name)));
        for (measure, samples) in measures.iter().zip(samples) {
            let systems = 0..System::ALL.len();
            let stream = measure.name == STREAM;
            // A stream counts bytes.
            let unit = if stream { f64::from(1 << 20) } else { 1.0 };
            let name = if stream { format!("{} (MiB)", measure.name) } else { measure.name.into() };
            let rate = |sample: &Sample| sample.rate() / unit;
            let widest = systems
                .clone()
                .map(|at| spread(&samples[at].iter().map(rate).collect::<Vec<_>>()))
                .fold(0.0, f64::max);
            let cells = systems.clone().map(|at| cell(samples, at, rate));
            let spread = format!("{:.0} %", widest * 100.0);
            rates.row([name.clone()].into_iter().chain(cells).chain([spread]));
            let cells = systems.map(|at| {
                let each = |time: std::time::Duration, sample: &Sample| {
                    micros(time) / (sample.done.count as f64 / unit)
                };
                let client = middle(&samples[at], |sample| each(sample.client_cpu, sample));
                let server = middle(&samples[at], |sample| each(sample.server_cpu, sample));
                let both = |s: &Sample| each(s.client_cpu + s.server_cpu, s);
                let ratio = ratio(samples, at, both);
                format!("{} + {} (×{ratio:.2})", number(client), number(server))
            });
            cpu.row([name].into_iter().chain(cells));
            if threads == 1 {
                self.note(measure.name, samples);
            }
        }
        rates.print(&format!("Throughput, {runtime}"));
        cpu.print(&format!("CPU, {runtime}"));
    }

    fn note(&mut self, name: &str, samples: &[Vec<Sample>]) {
        let rate = ratio(samples, OURS, Sample::rate);
        let bound = match name {
            SIXTY_FOUR | MANY | STREAM => 0.8,
            _ => return,
        };
        self.targets.push(Target {
            what: format!("{name}: rate / tungstenite"),
            value: rate,
            bound,
            at_least: true,
        });
        if name != STREAM {
            let rounds = samples[OURS].iter().zip(&samples[AWAITED]);
            self.targets.push(Target {
                what: format!("{name}: rate / tungstenite, awaited"),
                value: median(rounds.map(|(ours, bare)| ours.rate() / bare.rate())),
                bound,
                at_least: true,
            });
            self.targets.push(Target {
                what: format!("{name}, one task: rate / tungstenite"),
                value: ratio(samples, OURS + 1, Sample::rate),
                bound,
                at_least: true,
            });
        }
    }

    pub(crate) fn pinned(&mut self, name: &str, samples: &[Vec<Sample>]) {
        let head = ["µs"].into_iter().chain(System::BASIC.map(System::name));
        let mut table = Table::new(head.chain(["spread"]));
        let values: [(&str, Value); 3] = [
            ("p50", |sample| micros(sample.done.p50)),
            ("p99", |sample| micros(sample.done.p99)),
            ("CPU, both sides", |sample| {
                micros(sample.client_cpu + sample.server_cpu) / sample.done.count as f64
            }),
        ];
        for (what, value) in values {
            let systems = 0..System::BASIC.len();
            let widest = systems
                .clone()
                .map(|at| spread(&samples[at].iter().map(value).collect::<Vec<_>>()))
                .fold(0.0, f64::max);
            let cells = systems.map(|at| cell(samples, at, value));
            let spread = format!("{:.0} %", widest * 100.0);
            table.row([what.to_owned()].into_iter().chain(cells).chain([spread]));
        }
        table.print(&format!("Latency of 32 B, 1 in flight, {name}"));
        self.targets.push(Target {
            what: format!("{ONE}, {name}: p50 / tungstenite"),
            value: ratio(samples, OURS, |sample| micros(sample.done.p50)),
            bound: 1.15,
            at_least: false,
        });
    }

    pub(crate) fn memory(&mut self, connections: usize, each: &[f64]) {
        let mut table =
            Table::new(["KiB of the server"].into_iter().chain(System::BASIC.map(System::name)));
        let cells = each.iter().map(|kib| number(*kib));
        table.row([format!("per connection, {connections} idle")].into_iter().chain(cells));
        table.print("Memory");
        self.targets.push(Target {
            what: "KiB per idle connection".to_owned(),
            value: each[OURS],
            bound: 16.0,
            at_least: false,
        });
    }

    pub(crate) fn targets(&self) {
        print_targets(&self.targets);
    }
}
