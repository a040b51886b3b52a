//! How the cost of a message grows with the number of roles and units, in the engine.
//!
//! With all of them in turn, the memory of each is cold when its turn comes, which costs something
//! on any machine and grows until nothing fits into the caches: the control rows tell how much.
//! With always the same one, only what the engine searches can grow.

use std::{
    collections::HashMap,
    hint::black_box,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    common::{Options, Table, Target, median, number},
    hub::{Hub, outgoing, role_names},
};

pub(crate) const SIZES: [usize; 3] = [10, 1000, 10_000];
/// Messages or requests in a turn: one for each unit where there are fewest, so that with more of
/// them a unit does not get less at a time.
pub(crate) const BATCH: usize = SIZES[0];

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Messages,
    Requests,
    /// And the host asks for the next deadline after each turn, as the engine says it should.
    Deadline,
    /// Two lookups of the name in a `HashMap` of as many, no engine.
    LookUp,
    /// Reads of eight cache lines, each known only from the one before, in 4 KiB of its own, no
    /// engine.
    Touch,
}

#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    what: What,
    in_turn: bool,
}

const ROWS: [Row; 7] = [
    Row { name: "requests, always the same", what: What::Requests, in_turn: false },
    Row { name: "requests, all in turn", what: What::Requests, in_turn: true },
    Row { name: "messages, always the same", what: What::Messages, in_turn: false },
    Row { name: "messages, all in turn", what: What::Messages, in_turn: true },
    Row { name: "requests, same, + deadline()", what: What::Deadline, in_turn: false },
    Row { name: "control: 2 lookups of a name, in turn", what: What::LookUp, in_turn: true },
    Row {
        name: "control: 8 cache lines read in a chain, in turn",
        what: What::Touch,
        in_turn: true,
    },
];

pub(crate) fn run(options: &Options) -> Outcome<Vec<Target>> {
    let mut targets = roles(options)?;
    targets.extend(units(options)?);
    Ok(targets)
}

fn roles(options: &Options) -> Outcome<Vec<Target>> {
    let names: Vec<_> = SIZES.into_iter().map(role_names).collect();
    let mut hubs = Vec::new();
    for names in &names {
        hubs.push(Hub::new(1, names)?);
    }
    let costs = measure(options, |row, at, time| cost(&mut hubs[at], &names[at], row, time));
    Ok(print("Growth with roles of one unit, engine, both sides", &costs?))
}

fn units(options: &Options) -> Outcome<Vec<Target>> {
    let names = role_names(1);
    let mut hubs = Vec::new();
    for size in SIZES {
        hubs.push(Hub::new(size, &names)?);
    }
    let costs = measure(options, |row, at, time| cost(&mut hubs[at], &names, row, time));
    Ok(print("Growth with units of one peer, engine, the side with many units", &costs?))
}

/// Nanoseconds by row, size and round.
type Costs = Vec<[Vec<f64>; SIZES.len()]>;

fn measure(
    options: &Options,
    mut cost: impl FnMut(Row, usize, Duration) -> Outcome<f64>,
) -> Outcome<Costs> {
    let time = options.pick(Duration::from_millis(20), Duration::from_millis(150));
    let rounds = options.pick(3, 9);
    let mut costs = vec![[const { Vec::new() }; SIZES.len()]; ROWS.len()];
    for _ in 0..rounds {
        for (row, costs) in ROWS.into_iter().zip(&mut costs) {
            for (at, costs) in costs.iter_mut().enumerate() {
                costs.push(cost(row, at, time)?);
            }
        }
    }
    Ok(costs)
}

fn print(title: &str, costs: &Costs) -> Vec<Target> {
    print_growth(title, &ROWS.map(|row| row.name), costs)
}

/// A row for each name, and the targets that follow from it.
pub(crate) fn print_growth(
    title: &str,
    names: &[&str],
    costs: &[[Vec<f64>; SIZES.len()]],
) -> Vec<Target> {
    let mut table = Table::new(["ns each", "10", "1,000", "10,000", "1,000 / 10", "10,000 / 10"]);
    let mut targets = Vec::new();
    for (name, costs) in names.iter().zip(costs) {
        let ratio = |at: usize| {
            median(costs[at].iter().zip(&costs[0]).map(|(cost, smallest)| cost / smallest))
        };
        let cells = costs.iter().map(|costs| number(median(costs.iter().copied())));
        let ratios = [format!("×{:.2}", ratio(1)), format!("×{:.2}", ratio(2))];
        table.row([(*name).to_owned()].into_iter().chain(cells).chain(ratios));
        if name.starts_with("control") {
            continue;
        }
        targets.push(Target {
            what: format!("{title}: {name}, 10,000 / 10"),
            value: ratio(2),
            bound: 1.15,
            at_least: false,
        });
    }
    table.print(title);
    targets
}

/// Nanoseconds per message or request. With many units only the hub's time counts: the remotes
/// would be machines of their own.
fn cost(hub: &mut Hub, names: &[String], row: Row, time: Duration) -> Outcome<f64> {
    let size = names.len().max(hub.remotes.len());
    match row.what {
        What::LookUp => return Ok(look_up(size, time)),
        What::Touch => return Ok(touch(size, time)),
        _ => {}
    }
    let body = [7; 32];
    let (mut turn, mut count) = (0, 0);
    let (mut busy, mut remotes) = (Duration::ZERO, Duration::ZERO);
    let begun = Instant::now();
    while begun.elapsed() < time {
        let before = Instant::now();
        let now = hub.now();
        for _ in 0..BATCH {
            let at = if row.in_turn { turn } else { 0 };
            turn += 1;
            let role = &names[at % names.len()];
            let units = hub.engine.peer().destination(role);
            let unit = *units.get(at % units.len().max(1)).ok_or("no unit")?;
            let outgoing = outgoing(role, "echo", &body);
            let sent = hub.engine.with_unit(unit, now, |unit| match row.what {
                What::Messages => unit.send(outgoing).map(drop),
                _ => unit.request(outgoing, None, now, ()).map(drop),
            });
            sent.ok_or("no unit")??;
        }
        hub.collect();
        let away = Instant::now();
        hub.run_remotes();
        remotes += away.elapsed();
        let answered = hub.receive();
        if row.what != What::Messages && answered != BATCH {
            return Err("not all requests were answered".into());
        }
        if row.what == What::Deadline {
            black_box(hub.engine.deadline());
        }
        busy += before.elapsed();
        count += BATCH;
    }
    let cost = if hub.remotes.len() > 1 { busy - remotes } else { busy };
    Ok(cost.as_nanos() as f64 / count as f64)
}

fn look_up(size: usize, time: Duration) -> f64 {
    let names = role_names(size);
    let map: HashMap<&str, usize> =
        names.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    each(time, |turn| {
        let name = names[turn % size].as_str();
        map.get(black_box(name)).zip(map.get(black_box(name))).map(|(a, b)| a + b)
    })
}

fn touch(size: usize, time: Duration) -> f64 {
    let blocks: Vec<_> = (0..size).map(|_| vec![0u8; 4096]).collect();
    each(time, |turn| {
        // In an order that nothing can foresee.
        let block = &blocks[(turn % size).wrapping_mul(7919) % size];
        (0..8).fold(0, |at, _| at + 512 + usize::from(block[at]))
    })
}

/// Nanoseconds of one call.
fn each<T>(time: Duration, mut work: impl FnMut(usize) -> T) -> f64 {
    let begun = Instant::now();
    let mut turn = 0;
    while begun.elapsed() < time {
        for _ in 0..100 {
            black_box(work(turn));
            turn += 1;
        }
    }
    begun.elapsed().as_nanos() as f64 / turn as f64
}
