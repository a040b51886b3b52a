//! Whole networks of peers in virtual time, with everything going wrong that can.
//!
//! Nothing here knows of tokio, sockets or clocks: [`world`] holds the time and the network,
//! [`host`] runs the engine with an application that acts at random, [`script`] models the
//! originals, and [`ledger`] keeps the promises that must hold. One seed makes a run; see
//! CONTRIBUTING.md for how to repeat one. The number of runs is fixed; `ROLETALK_SIM_SECONDS` makes each
//! network go on with new seeds for that long.

// How long a soak goes on, and a seed nobody has chosen, come from the machine.
#![allow(clippy::disallowed_types)]

mod fields;
mod host;
// The simulation of the tokio host (core/tests/network) uses these as well, and other parts of them.
#[allow(dead_code)]
mod ledger;
mod rng;
mod runs;
mod scanner;
mod script;
mod trace;
mod world;

use std::{process::ExitCode, time::Duration};

use libtest_mimic::{Arguments, Trial};
use roletalk_engine::{Config, Moment};

use host::Host;
use ledger::Counts;
use rng::Rng;
use runs::Network;
use script::{Original, Plan, Script};
use world::{Acting, Node, Profile, World};

const SECOND: Duration = Duration::from_secs(1);

/// What a run comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    hash: u64,
    events: u64,
    counts: Counts,
}

/// So few handlers that requests wait for them.
const HANDLERS: usize = 8;

/// What kind of network a run makes.
#[derive(Clone, Copy, Debug)]
struct Setup {
    /// How long everybody acts at random.
    acting: Duration,
    /// Each peer dials so many others.
    dials: u64,
    /// Preshared keys: some peers hold the right one, some a wrong one, some none.
    keys: bool,
    /// Two peers have the same id.
    twins: bool,
    profile: Profile,
}

const FAULTS: Profile = Profile {
    peers: 2,
    friendly: 70,
    message: 20_000,
    stream: 200_000,
    stream_mischief: true,
    close_units: true,
    losses: 4,
    stalls: 3,
    partitions: 1,
    dial_failures: 150,
    capacity: 64 << 10,
    latency: 20_000,
};

const CALM: Profile = Profile {
    stream_mischief: false,
    close_units: false,
    losses: 0,
    stalls: 0,
    partitions: 0,
    dial_failures: 0,
    ..FAULTS
};

const PAIR: Setup =
    Setup { acting: Duration::from_secs(15), dials: 2, keys: false, twins: false, profile: FAULTS };

const MESH: Setup =
    Setup { acting: Duration::from_secs(10), profile: Profile { peers: 20, ..FAULTS }, ..PAIR };

const CROWD: Setup = Setup {
    acting: Duration::from_secs(4),
    dials: 1,
    // All would come to know all: that is 45 000 connections.
    profile: Profile { peers: 300, friendly: 5, stream: 5_000, message: 500, ..FAULTS },
    ..PAIR
};

/// The same with other numbers of peers.
fn few(peers: usize, setup: Setup) -> Setup {
    Setup { profile: Profile { peers, ..setup.profile }, ..setup }
}

fn config(rng: &mut Rng, id_seed: u64, setup: &Setup) -> Config {
    let mut id = Rng::new(id_seed);
    let mut rest = rng.fork();
    let mut first = true;
    let entropy = Box::new(move |bytes: &mut [u8]| match std::mem::take(&mut first) {
        true => id.fill(bytes),
        false => rest.fill(bytes),
    });
    let mut config = Config::new(entropy);
    config.friendly = rng.percent(setup.profile.friendly);
    config.reconnect.cap = Duration::from_secs(4);
    config.reconnect.jitter = if rng.percent(50) { 0.5 } else { 0.0 };
    let limits = &mut config.limits;
    limits.queue_per_connection = rng.pick(&[30_000, 200_000]);
    limits.queue_per_peer = rng.pick(&[60_000, 2_000_000]);
    // A unit has one window, so that twins must have the same.
    limits.stream_window = if setup.twins { 65_536 } else { rng.pick(&[1000, 65_536, 262_144]) };
    limits.connections_per_unit = rng.pick(&[2, 16]);
    limits.waiting_requests = rng.pick(&[20, 65_536]);
    limits.streams = rng.pick(&[5, 4096]);
    limits.running_handlers = rng.pick(&[HANDLERS, 65_536, 65_536]);
    limits.request_timeout = Duration::from_secs(8);
    limits.acquaintance_patience = Duration::from_secs(5);
    limits.acquaintance_dials = rng.pick(&[1, 16]);
    // Of twins, the connection that replaces another may lead to the other one, where its streams are not known.
    let age = rng.pick(&[Duration::ZERO, SECOND, 3 * SECOND]);
    limits.connection_age = if setup.twins { Duration::ZERO } else { age };
    config.extensions = fields::extensions(rng);
    if setup.keys {
        match rng.below(10) {
            0 => {}
            1 => config.keys.add("k", "wrong").unwrap(),
            _ => config.keys.add("k", "right").unwrap(),
        }
    }
    config
}

fn run(seed: u64, setup: &Setup) -> Outcome {
    let mut world = begin(seed, setup);
    world.set_acting(Acting::Everything);
    world.run_until(Moment::EPOCH + setup.acting);
    world.set_acting(Acting::Roles);
    world.profile.losses *= 10;
    world.profile.dial_failures = 0;
    world.run_until(world.now + 2 * SECOND);
    // The last changes come while many connections are being made anew.
    calm(&mut world);
    world.lose_many();
    let moment = world.rng.millis(0, 150);
    world.run_until(world.now + moment);
    world.set_acting(Acting::Nothing);
    for index in 0..setup.profile.peers {
        world.with_host(index, |host, ctx| host.release(ctx));
    }

    // Nothing goes wrong from here on: everything comes to its end.
    rest(&mut world);
    check_agreement(&world, setup);
    for index in 0..setup.profile.peers {
        world.with_host(index, |host, ctx| host.prove(ctx));
    }
    rest(&mut world);
    if !setup.twins {
        world.ledger.check_sound_messages();
    }
    close(&mut world)
}

/// All but one leave, one after the other, while everybody acts at random and everything goes wrong that can.
fn run_leaving(seed: u64, setup: &Setup) -> Outcome {
    let mut world = begin(seed, setup);
    world.set_acting(Acting::Everything);
    world.run_until(Moment::EPOCH + 2 * SECOND);
    for index in 1..setup.profile.peers {
        world.with_host(index, Host::leave);
        for step in 0.. {
            if world.with_host(index, |host, ctx| host.has_left(ctx, step == 500)) {
                break;
            }
            world.run_until(world.now + Duration::from_millis(10));
        }
        let moment = world.rng.millis(0, 500);
        world.run_until(world.now + moment);
    }
    calm(&mut world);
    world.set_acting(Acting::Nothing);
    world.with_host(0, |host, ctx| host.release(ctx));
    rest(&mut world);
    close(&mut world)
}

fn calm(world: &mut World) {
    world.profile.losses = 0;
    world.profile.stalls = 0;
    world.profile.partitions = 0;
}

fn begin(seed: u64, setup: &Setup) -> World {
    let mut world = World::new(seed, setup.profile);
    world.ledger.twins = setup.twins;
    for index in 0..setup.profile.peers {
        let id_seed = if setup.twins && index == 1 { 0 } else { index as u64 };
        let config = config(&mut world.rng, id_seed, setup);
        let host = Host::new(index, config, setup.profile);
        world.add(Node::Host(Box::new(host)));
    }
    for index in 0..setup.profile.peers {
        world.with_host(index, |host, ctx| {
            for _ in 0..3 {
                let (serves, uses) = (host::role(ctx.rng), host::role(ctx.rng));
                let now = ctx.now;
                host.engine.with_peer(now, |peer| peer.add_role(serves, true, now)).unwrap();
                host.add_destination(now, uses);
            }
            for _ in 0..ctx.rng.between(1, setup.dials) {
                // Sometimes itself.
                let url = world::url(ctx.rng.index(setup.profile.peers));
                let now = ctx.now;
                host.engine.with_peer(now, |peer| peer.connect(&url, true, now)).unwrap();
            }
        });
    }
    world
}

/// Runs until nothing is under way.
fn rest(world: &mut World) {
    // Heartbeats find what is half open, addresses are dialed again.
    world.run_until(world.now + 40 * SECOND);
    for _ in 0..200 {
        let idle =
            |world: &World| (0..world.nodes.len()).all(|n| world.host(n).is_none_or(Host::is_idle));
        if world.ledger.open() == 0 && idle(world) {
            break;
        }
        world.run_until(world.now + SECOND);
    }
    world.ledger.check_settled();
    for index in 0..world.nodes.len() {
        let Some(host) = world.host(index) else { continue };
        let is_idle = host.is_idle() || world.ledger.twins;
        assert!(is_idle, "node {index} hangs: {}", host.describe());
    }
}

/// Everybody sees those that see it, and the roles that they serve.
fn check_agreement(world: &World, setup: &Setup) {
    if setup.twins {
        return;
    }
    let hosts: Vec<&Host> =
        (0..setup.profile.peers).filter_map(|index| world.host(index)).collect();
    let by_id = |id: &str| hosts.iter().find(|host| &**host.engine.peer().id() == id);
    for host in &hosts {
        let peer = host.engine.peer();
        for unit in peer.units() {
            let (info, roles) = peer.unit(unit).unwrap();
            let other = by_id(&info.id).expect("a unit that is none of the peers");
            let seen = |id: &str| {
                let other = other.engine.peer();
                other.units().any(|unit| &*other.unit(unit).unwrap().0.id == id)
            };
            assert!(seen(peer.id()), "{} sees {}, not so the other way", host.index, other.index);
            let mut known: Vec<&str> = roles.iter().map(String::as_str).collect();
            let other = other.engine.peer();
            let mut truly: Vec<&str> =
                other.roles().filter(|(_, active)| *active).map(|(name, _)| &**name).collect();
            known.sort_unstable();
            truly.sort_unstable();
            assert_eq!(known, truly, "roles that {} knows of {:?}", host.index, info.id);
            for role in peer.destinations() {
                let found = peer.destination(role).contains(&unit);
                assert_eq!(found, truly.contains(&&**role), "{role} of {unit:?}");
            }
        }
    }
}

/// Closes everything and checks that nothing remains.
fn close(world: &mut World) -> Outcome {
    for index in 0..world.nodes.len() {
        if world.host(index).is_some() {
            world.with_host(index, |host, ctx| host.engine.close(ctx.now));
        }
    }
    world.run_until(world.now + 30 * SECOND);
    for index in 0..world.nodes.len() {
        let Some(host) = world.host(index) else { continue };
        host.check_closed();
        assert_eq!(host.engine.deadline(), None, "node {index} has something left to do");
    }
    assert_eq!(world.wires(), 0, "sockets are left open");
    world.ledger.check_streams();
    let (hash, events) = (world.trace.hash(), world.trace.events());
    Outcome { hash, events, counts: world.ledger.counts }
}

/// One engine, and originals of every kind around it.
fn run_originals(seed: u64) -> Outcome {
    let mut world = World::new(seed, CALM);
    let setup = Setup { profile: CALM, ..PAIR };
    let mut limits = config(&mut world.rng, 0, &setup);
    limits.limits.streams = 4096;
    limits.limits.waiting_requests = 4096;
    limits.limits.running_handlers = 65_536;
    limits.limits.queue_per_peer = 2_000_000;
    // Each of them knows one connection.
    limits.limits.connection_age = Duration::ZERO;
    world.add(Node::Host(Box::new(Host::new(0, limits, CALM))));
    for original in [Original::JavaScript, Original::Go] {
        for mark in [0, 1, 1000, 16_384, 65_536, 1 << 20] {
            for (writes, asks) in [(false, false), (false, true), (true, false), (true, true)] {
                let size = world.rng.size(400_000).max(world.rng.index(2) * 300_000);
                let plan = Plan {
                    original,
                    mark,
                    writes,
                    asks: asks.then_some(size),
                    dials: world.rng.percent(50).then(|| world::url(0)),
                };
                let index = world.nodes.len();
                world.add(Node::Script(Box::new(Script::new(index, plan))));
            }
        }
    }
    let dialed: Vec<usize> = (1..world.nodes.len())
        .filter(|index| match &world.nodes[*index] {
            Node::Script(script) => script.plan().dials.is_none(),
            Node::Host(_) => false,
        })
        .collect();
    world.with_host(0, |host, ctx| {
        let now = ctx.now;
        for n in 0..6 {
            let role = format!("r{n}");
            host.engine.with_peer(now, |peer| peer.add_role(&role, true, now)).unwrap();
        }
        for index in dialed {
            let url = world::url(index);
            host.engine.with_peer(now, |peer| peer.connect(&url, true, now)).unwrap();
        }
    });
    world.start_scripts();
    world.run_until(Moment::EPOCH + SECOND);
    for index in 1..world.nodes.len() {
        let Node::Script(script) = &world.nodes[index] else { continue };
        let plan = script.plan().clone();
        let size = world.rng.size(400_000).max(world.rng.index(2) * 300_000);
        if plan.asks.is_none() {
            world.with_host(0, |host, ctx| {
                let unit = host.unit_named(&index.to_string());
                host.open_stream(ctx, unit, !plan.writes, size);
            });
        }
    }
    for _ in 0..60 {
        world.run_until(world.now + SECOND);
    }
    world.ledger.check_settled();
    let streams = world.ledger.streams.values();
    let broken: Vec<_> = streams.filter(|stream| stream.reader != ledger::End::Complete).collect();
    assert!(broken.is_empty(), "{broken:?}");
    close(&mut world)
}

const NETWORKS: [Network<Outcome>; 8] = [
    Network { name: "two_peers", seeds: &[1, 2, 3, 4], run: |seed| run(seed, &PAIR) },
    Network {
        name: "two_peers_without_faults",
        seeds: &[1, 2],
        run: |seed| run(seed, &Setup { profile: CALM, ..PAIR }),
    },
    Network { name: "mesh_of_twenty", seeds: &[1], run: |seed| run(seed, &MESH) },
    Network {
        name: "mesh_with_keys",
        seeds: &[1],
        run: |seed| run(seed, &few(8, Setup { keys: true, ..MESH })),
    },
    Network { name: "crowd_of_three_hundred", seeds: &[1], run: |seed| run(seed, &CROWD) },
    Network {
        name: "twins",
        seeds: &[1, 2],
        run: |seed| run(seed, &few(4, Setup { twins: true, ..PAIR })),
    },
    Network { name: "leaving", seeds: &[1, 2, 3, 4], run: |seed| run_leaving(seed, &few(5, PAIR)) },
    Network { name: "originals", seeds: &[1, 2], run: run_originals },
];

fn main() -> ExitCode {
    let mut trials: Vec<_> = NETWORKS.into_iter().flat_map(Network::trials).collect();
    trials.push(Trial::test("the_same_seed_gives_the_same_events", || {
        let setup = few(6, Setup { keys: true, acting: 5 * SECOND, ..MESH });
        assert_eq!(run(7, &setup), run(7, &setup));
        Ok(())
    }));
    trials.push(Trial::test("handlers_are_cancelled_and_requests_are_not_begun", || {
        for seed in 1..=4 {
            let Counts { cancelled, unhandled, not_begun, .. } = run(seed, &PAIR).counts;
            if [cancelled, unhandled, not_begun].iter().all(|count| *count > 0) {
                return Ok(());
            }
        }
        Err("of no seed".into())
    }));
    trials.push(Trial::test("who_drains_says_what_was_not_begun", || {
        for seed in 1..=8 {
            let Counts { unhandled, drained, .. } = run_leaving(seed, &few(5, PAIR)).counts;
            if [unhandled, drained].iter().all(|count| *count > 0) {
                return Ok(());
            }
        }
        Err("of no seed".into())
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
