//! Whole networks of peers on tokio, over connections in memory and in paused time, with everything going
//! wrong that can.
//!
//! The simulation of `roletalk-engine` runs the engine below them; here is what users of Rust and C run on
//! top of it: the tasks of connections, dialing, handlers, streams. Both keep the same promises, in the
//! same `ledger`. [`pipe`] is what a network does to bytes, [`world`] what else goes wrong, [`node`] a peer
//! whose application acts at random.
//!
//! A seed gives the same actions and faults, but not on its own the same run: peers take ids and masks from
//! the system, tables of the peer and `select!` have no fixed order, and handlers that keep the thread for
//! more than 5 ms are noticed by the real clock. Most runs of a seed are the same; one that fails may have
//! to be repeated.

// As much as the engine's simulation uses, and a little more.
#[allow(dead_code)]
#[path = "../../engine/tests/simulation/ledger.rs"]
mod ledger;
mod node;
mod pipe;
#[allow(dead_code)]
#[path = "../../engine/tests/simulation/rng.rs"]
mod rng;
#[path = "../../engine/tests/simulation/runs.rs"]
mod runs;
#[allow(dead_code)]
#[path = "../../engine/tests/simulation/scanner.rs"]
mod scanner;
#[allow(dead_code)]
#[path = "../../engine/tests/simulation/trace.rs"]
mod trace;
mod world;

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use libtest_mimic::Arguments;
use tokio::{runtime::Handle, time::sleep};

use node::Node;
use pipe::Nature;
use runs::Network;
use world::World;

/// What kind of network a run makes, and what goes wrong in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    peers: usize,
    /// Seconds in which everybody acts at random.
    acting: u64,
    /// Each peer dials so many others.
    dials: u64,
    /// How many of a hundred take part in acquaintance.
    friendly: u64,
    /// Preshared keys: some peers hold the right one, some a wrong one, some none.
    keys: bool,
    /// The largest message and stream.
    message: usize,
    stream: usize,
    close_units: bool,
    /// Some handlers keep the thread for a while.
    blocking: bool,
    /// Handlers for what comes have to wait for others to end.
    few_handlers: bool,
    /// Chances in a thousand actions: connections lost or held up, partitions, peers made anew.
    losses: u64,
    stalls: u64,
    partitions: u64,
    restarts: u64,
    /// Attempts of a thousand to connect.
    dial_failures: u64,
    nature: Nature,
}

impl Profile {
    /// Whether the network does no harm from the start on.
    fn is_calm(&self) -> bool {
        self.losses + self.stalls + self.partitions + self.dial_failures == 0
    }
}

const FAULTS: Profile = Profile {
    peers: 2,
    acting: 15,
    dials: 2,
    friendly: 70,
    keys: false,
    message: 20_000,
    stream: 200_000,
    close_units: true,
    blocking: false,
    few_handlers: false,
    losses: 4,
    stalls: 4,
    partitions: 1,
    restarts: 2,
    dial_failures: 150,
    nature: Nature { capacity: 64 << 10, latency: 20 },
};

const CALM: Profile = Profile {
    close_units: false,
    losses: 0,
    stalls: 0,
    partitions: 0,
    restarts: 0,
    dial_failures: 0,
    ..FAULTS
};

const NETWORKS: [Network<()>; 6] = [
    Network { name: "two_peers", seeds: &[1, 2, 3, 4, 5, 6], run: |seed| run(seed, FAULTS) },
    Network { name: "two_peers_without_faults", seeds: &[1, 2, 3], run: |seed| run(seed, CALM) },
    Network {
        name: "handlers_that_block",
        seeds: &[1, 2],
        run: |seed| run(seed, Profile { blocking: true, ..FAULTS }),
    },
    Network {
        name: "few_handlers",
        seeds: &[1, 2],
        run: |seed| run(seed, Profile { few_handlers: true, ..FAULTS }),
    },
    Network {
        name: "mesh_of_twelve",
        seeds: &[1, 2],
        run: |seed| run(seed, Profile { peers: 12, acting: 10, ..FAULTS }),
    },
    Network {
        name: "mesh_with_keys",
        seeds: &[1, 2],
        run: |seed| run(seed, Profile { peers: 6, keys: true, acting: 10, ..FAULTS }),
    },
];

fn main() -> ExitCode {
    let trials = NETWORKS.into_iter().flat_map(Network::trials).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn run(seed: u64, profile: Profile) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let world = World::new(seed, profile);
        let living = AssertUnwindSafe(live(&world)).catch_unwind();
        let outcome = tokio::select! {
            biased;
            failure = world.failed() => Err(Box::new(failure) as _),
            outcome = living => outcome,
        };
        // They know the world: it would never end, and tell of its last events.
        for place in 0..profile.peers {
            world.settle(place, None);
        }
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    });
}

async fn live(world: &Arc<World>) {
    for place in 0..world.profile().peers {
        Node::start(world, place);
    }
    act(world, world.profile().acting, |node| node.act()).await;
    // The last changes come while many connections are being made anew.
    act(world, 2, |node| node.change_roles()).await;
    world.lose_many();
    sleep(world.millis(0, 150)).await;
    world.calm();

    // Nothing goes wrong from here on: everything comes to its end.
    rest(world).await;
    let nodes = world.nodes();
    world.with(|_| assert_eq!(nodes.len(), world.profile().peers, "a peer was not made anew"));
    for node in &nodes {
        node.check_agreement(&nodes);
    }
    for node in &nodes {
        node.prove().await;
    }
    rest(world).await;
    world.with(|state| state.ledger.check_sound_messages());
    close(world, nodes).await;
}

/// Lets somebody do something, and something go wrong, again and again.
async fn act(world: &Arc<World>, seconds: u64, action: impl Fn(&Arc<Node>)) {
    let end = world.now() + Duration::from_secs(seconds);
    while world.now() < end {
        world.fault();
        let nodes = world.nodes();
        let (at, restarts) = world.with(|state| {
            let rng = &mut state.rng;
            (rng.index(nodes.len().max(1)), rng.below(1000) < world.profile().restarts)
        });
        if let Some(node) = nodes.get(at) {
            action(node);
            if restarts {
                restart(world, node.place);
            }
        }
        let pause = world.millis(0, 20);
        sleep(pause).await;
    }
}

/// Closes a peer and makes it anew, at the same address.
fn restart(world: &Arc<World>, place: usize) {
    let Some(node) = world.settle(place, None) else { return };
    let world = world.clone();
    tokio::spawn(async move {
        node.close().await;
        Node::start(&world, place);
    });
}

/// Waits until nothing is under way.
async fn rest(world: &Arc<World>) {
    // Heartbeats find what is half open, addresses are dialed again.
    sleep(Duration::from_secs(40)).await;
    let busy = || world.nodes().iter().find_map(|node| Some((node.index, node.busy()?)));
    for _ in 0..200 {
        if busy().is_none() && world.with(|state| state.ledger.open()) == 0 {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    world.with(|state| state.ledger.check_settled());
    if let Some((node, what)) = busy() {
        world.with(|_| panic!("node {node} hangs: {what}"));
    }
}

/// Closes everything and checks that nothing remains.
async fn close(world: &Arc<World>, nodes: Vec<Arc<Node>>) {
    world.over.send_replace(true);
    for node in &nodes {
        node.close().await;
        world.settle(node.place, None);
    }
    drop(nodes);
    sleep(Duration::from_secs(3)).await;
    world.with(|_| assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "tasks are left"));
    let wires = world.wires();
    world.with(|_| assert_eq!(wires, 0, "connections are left"));
}
