//! What two engines get done in one thread: the CPU time of both ends of a connection together.

use std::time::{Duration, Instant};

use roletalk_engine::{UnitId, wire::Direction};

use crate::{
    Outcome,
    common::{Options, Table, median, number, spread},
    hub::{Hub, outgoing, role_names},
};

const PIECE: usize = 64 << 10;

type Run = fn(&mut Hub, &str, Duration) -> Outcome<f64>;

const ROWS: [(&str, Run); 5] = [
    ("messages 32 B, 256 a turn", |hub, role, time| messages(hub, role, 256, time)),
    ("requests 32 B, 1 in flight", |hub, role, time| requests(hub, role, 1, time)),
    ("requests 32 B, 64 in flight", |hub, role, time| requests(hub, role, 64, time)),
    ("requests 32 B, 256 in flight", |hub, role, time| requests(hub, role, 256, time)),
    ("stream, 64 KiB pieces (MiB)", stream),
];

pub(crate) fn run(options: &Options) -> Outcome<()> {
    let all = options.wants("throughput");
    let rows: Vec<_> = ROWS.into_iter().filter(|(name, _)| all || options.wants(name)).collect();
    let time = options.pick(Duration::from_millis(60), Duration::from_millis(500));
    let rounds = options.pick(3, 7);
    let mut rates = vec![Vec::new(); rows.len()];
    for _ in 0..rounds {
        let roles = role_names(1);
        let mut hub = Hub::new(1, &roles)?;
        for ((_, run), rates) in rows.iter().zip(&mut rates) {
            rates.push(run(&mut hub, &roles[0], time)?);
        }
    }
    let mut table = Table::new(["two engines in one thread", "per second", "ns each", "spread"]);
    for ((name, _), rates) in rows.iter().zip(&rates) {
        let rate = median(rates.iter().copied());
        let spread = format!("{:.0} %", spread(rates) * 100.0);
        table.row([(*name).to_owned(), number(rate), number(1e9 / rate), spread]);
    }
    table.print("Throughput of the engine");
    Ok(())
}

fn only_unit(hub: &Hub) -> Outcome<UnitId> {
    hub.units.first().copied().ok_or_else(|| "no unit".into())
}

fn messages(hub: &mut Hub, role: &str, a_turn: usize, time: Duration) -> Outcome<f64> {
    let unit = only_unit(hub)?;
    let body = [7; 32];
    let before = hub.remotes[0].counted;
    let begun = Instant::now();
    while begun.elapsed() < time {
        let now = hub.now();
        for _ in 0..a_turn {
            let sent =
                hub.engine.with_unit(unit, now, |unit| unit.send(outgoing(role, "count", &body)));
            sent.ok_or("no unit")??;
        }
        hub.turn();
    }
    Ok((hub.remotes[0].counted - before) as f64 / begun.elapsed().as_secs_f64())
}

fn requests(hub: &mut Hub, role: &str, window: usize, time: Duration) -> Outcome<f64> {
    let unit = only_unit(hub)?;
    let body = [7; 32];
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < time {
        let now = hub.now();
        for _ in 0..window {
            let asked = hub.engine.with_unit(unit, now, |unit| {
                unit.request(outgoing(role, "echo", &body), None, now, ())
            });
            asked.ok_or("no unit")??;
        }
        hub.collect();
        hub.run_remotes();
        let answered = hub.receive();
        if answered != window {
            return Err("not all requests were answered".into());
        }
        count += answered;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

fn stream(hub: &mut Hub, role: &str, time: Duration) -> Outcome<f64> {
    let unit = only_unit(hub)?;
    let piece = vec![7; PIECE];
    let now = hub.now();
    let opened = hub.engine.with_unit(unit, now, |unit| {
        unit.open_stream(Direction::RequesterWrites, outgoing(role, "upload", &[]), None, now, ())
    });
    let (id, _) = opened.ok_or("no unit")??;
    while hub.turn() {}
    let before = hub.remotes[0].counted;
    let begun = Instant::now();
    while begun.elapsed() < time {
        let now = hub.now();
        let sent = hub.engine.with_unit(unit, now, |unit| {
            while unit.write(id, &piece, now)? > 0 {}
            Ok::<_, roletalk_engine::Error>(())
        });
        sent.ok_or("no unit")??;
        if !hub.turn() {
            return Err("the stream is stuck".into());
        }
    }
    let arrived = hub.remotes[0].counted - before;
    let rate = arrived as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64();
    hub.engine.with_unit(unit, now, |unit| unit.close_stream(id, ""));
    while hub.turn() {}
    Ok(rate)
}
