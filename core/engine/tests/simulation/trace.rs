//! What happened: a hash of all of it, and the last events for the report of a failure.

use std::{collections::VecDeque, fmt};

use roletalk_engine::Moment;

const KEPT: usize = 50;

pub(crate) struct Trace {
    hash: u64,
    events: u64,
    last: VecDeque<String>,
    /// Prints every event at once, when ROLETALK_SIM_TRACE is set.
    all: bool,
}

impl Trace {
    pub(crate) fn new() -> Trace {
        let all = std::env::var_os("ROLETALK_SIM_TRACE").is_some();
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, last: VecDeque::new(), all }
    }

    pub(crate) fn note(&mut self, now: Moment, node: usize, what: fmt::Arguments<'_>) {
        let line = format!("{:>12.6} {node:>3} {what}", now.since_epoch().as_secs_f64());
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.all {
            eprintln!("{line}");
        }
        self.events += 1;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// The same for the same events in the same order.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}

/// A run that fails tells what happened last.
impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last {} of {} events:", self.last.len(), self.events);
            for line in &self.last {
                eprintln!("{line}");
            }
        }
    }
}
