//! What happens, and what has to come of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use roletalk::{ErrorKind, Peer};
use sha2::{Digest, Sha256};

use crate::{
    Result,
    actor::{Actor, Part, Seen},
    report::Report,
};

/// Everybody serves this role all the time.
const MATH: &str = "math";
/// This one comes and goes.
const NIGHT: &str = "night-watch";
const FILE: &str = "portrait.bin";
const FILE_SIZE: usize = 8 << 20;
const PYTHON_PLAYER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/player.py");
const KEY: &str = "what only the four of them know";

pub(crate) async fn play(report: &mut Report) -> Result<()> {
    println!("Four processes, no broker: they find each other and work together.");
    match python() {
        Some(_) => println!("Bob is a Python process."),
        None => println!("Bob is in Rust: ROLETALK_DEMO_PYTHON names no Python with the package."),
    }
    match c_player() {
        Some(_) => println!("Dave is a C process."),
        None => println!("Dave is in Rust: ROLETALK_DEMO_C names no player in C."),
    }
    let stage = Stage::build()?;
    let mut cast = Vec::new();
    for name in ["alice", "bob", "carol", "dave"] {
        cast.push(Actor::start(&stage.part(name)?, &stage.directory)?);
    }
    let [alice, bob, carol, dave]: &mut [Actor; 4] =
        cast.as_mut_slice().try_into().map_err(|_| "four players")?;

    report.chapter("Each dials only the one before it");
    for actor in [&mut *alice, &mut *bob, &mut *carol, &mut *dave] {
        actor.tell(&format!("offer {MATH}")).await?;
        actor.tell(&format!("use {MATH}")).await?;
    }
    let alice_url = alice.tell("listen 0").await?;
    report.tell("alice", &format!("listens on {alice_url}"));
    let bob_url = dial(report, bob, alice, &alice_url).await?;
    let carol_url = dial(report, carol, bob, &bob_url).await?;
    dial(report, dave, carol, &carol_url).await?;

    report.chapter("They become acquainted with all the others");
    all_acquainted(report, [&mut *alice, &mut *bob, &mut *carol, &mut *dave]).await?;
    let stranger = Peer::builder().name("stranger").preshared_key("demo", "a guess").build()?;
    let refused = stranger.connect(&alice_url).await.err().map(|error| error.kind());
    stranger.close().await;
    report.check(
        refused == Some(ErrorKind::AuthRefused),
        "a stranger that does not know the key is refused",
    )?;

    report.chapter("A role appears, is disabled and enabled");
    night_watch(report, alice, bob, dave).await?;

    report.chapter("Requests are balanced over those that serve the role");
    balanced(report, dave, 30, "alice=10 bob=10 carol=10").await?;
    balanced(report, alice, 300, "bob=100 carol=100 dave=100").await?;

    report.chapter("One speaks to all");
    let count = alice.tell(&format!("broadcast {MATH} good-morning")).await?;
    report.tell("alice", &format!("broadcasts \"good-morning\" to {count}"));
    let note = [("alice".to_owned(), "good-morning".to_owned())];
    for actor in [&mut *bob, &mut *carol, &mut *dave] {
        let heard = actor.sees(|seen| !seen.notes.is_empty()).await?;
        let once = heard && actor.seen().notes == note;
        report.check(once, &format!("{} has heard it", actor.name()))?;
    }
    let answers = bob.tell(&format!("survey {MATH}")).await?;
    report.tell("bob", "asks everybody for their name");
    report.check(answers == "alice carol dave", &format!("{answers} have answered"))?;

    report.chapter("A file is streamed, there and back");
    stream(report, dave, bob, alice).await?;

    report.chapter("One process is killed, the rest go on");
    let carol = cast.remove(2);
    let [alice, bob, dave]: &mut [Actor; 3] =
        cast.as_mut_slice().try_into().map_err(|_| "three players")?;
    carol.kill().await?;
    report.tell("carol", "is killed (SIGKILL)");
    for actor in [&mut *alice, &mut *bob, &mut *dave] {
        let gone =
            actor.sees(|s| !s.met.contains("carol") && !s.serves(MATH).contains(&"carol")).await?;
        report.check(gone, &format!("{} knows that carol is gone", actor.name()))?;
    }
    balanced(report, dave, 20, "alice=10 bob=10").await?;

    report.chapter("It comes back and is found again");
    let mut carol = Actor::start(&stage.part("carol")?, &stage.directory)?;
    carol.tell(&format!("offer {MATH}")).await?;
    carol.tell(&format!("use {MATH}")).await?;
    let port = carol_url.rsplit(':').next().unwrap_or_default();
    carol.tell(&format!("listen {port}")).await?;
    carol.tell(&format!("connect {bob_url}")).await?;
    report.tell("carol", "is started anew, on the same port, and dials bob");
    let reconnected = dave.sees(|seen| seen.reconnected == ["carol"]).await?;
    report.check(reconnected, "dave, who had dialed carol, has reconnected by itself")?;
    all_acquainted(report, [&mut *alice, &mut *bob, &mut carol, &mut *dave]).await?;
    balanced(report, dave, 30, "alice=10 bob=10 carol=10").await?;

    report.chapter("All close");
    cast.push(carol);
    for actor in cast {
        let name = actor.name();
        let exited = actor.close().await?;
        report.check(exited, &format!("{name} has closed and exited"))?;
    }
    Ok(())
}

/// Where the players' files are; removed in the end.
struct Stage {
    directory: PathBuf,
}

impl Stage {
    fn build() -> Result<Stage> {
        let directory = std::env::temp_dir().join(format!("roletalk-demo-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Stage { directory })
    }

    /// Bob is played by Python and Dave by C where they are there. Another language's program goes here,
    /// too.
    fn part(&self, name: &'static str) -> Result<Part> {
        let (program, arguments) = match (name, python(), c_player()) {
            ("bob", Some(python), _) => (python, vec![PYTHON_PLAYER.to_owned()]),
            ("dave", _, Some(player)) => (player, Vec::new()),
            _ => (std::env::current_exe()?, Vec::new()),
        };
        Ok(Part { name, program, arguments, key: KEY.to_owned() })
    }
}

/// The interpreter that has the Python package, if there is one.
fn python() -> Option<PathBuf> {
    named("ROLETALK_DEMO_PYTHON")
}

/// The program of bindings-c/examples/demo_player.c, if it is built.
fn c_player() -> Option<PathBuf> {
    named("ROLETALK_DEMO_C")
}

fn named(variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable)?;
    (!named.is_empty()).then(|| named.into())
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The next link of the chain. Returns the address that the new one listens on.
async fn dial(report: &mut Report, who: &mut Actor, whom: &Actor, url: &str) -> Result<String> {
    let own = who.tell("listen 0").await?;
    let answered = who.tell(&format!("connect {url}")).await?;
    report.tell(who.name(), &format!("listens on {own} and dials {}", whom.name()));
    let what = format!("{} is connected to {answered}", who.name());
    report.check(answered == whom.name(), &what)?;
    Ok(own)
}

/// Everybody is connected to everybody else, and knows what they serve.
async fn all_acquainted(report: &mut Report, actors: [&mut Actor; 4]) -> Result<()> {
    let names: Vec<&str> = actors.iter().map(|actor| actor.name()).collect();
    for actor in actors {
        let others: Vec<&str> = names.iter().copied().filter(|n| *n != actor.name()).collect();
        let all = |seen: &Seen| seen.met.iter().eq(&others) && seen.serves(MATH) == others;
        let met = actor.sees(all).await?;
        report.check(met, &format!("{} knows {}", actor.name(), others.join(", ")))?;
    }
    Ok(())
}

async fn night_watch(
    report: &mut Report,
    alice: &mut Actor,
    bob: &mut Actor,
    dave: &mut Actor,
) -> Result<()> {
    dave.tell(&format!("use {NIGHT}")).await?;
    nobody_serves(report, dave).await?;
    for actor in [&mut *alice, &mut *bob] {
        actor.tell(&format!("offer {NIGHT}")).await?;
        report.tell(actor.name(), &format!("offers the role {NIGHT}"));
    }
    let found = dave.sees(|seen| seen.serves(NIGHT) == ["alice", "bob"]).await?;
    report.check(found, "dave has found both")?;
    alice.tell(&format!("disable {NIGHT}")).await?;
    report.tell("alice", "disables it");
    let lost = dave.sees(|seen| seen.serves(NIGHT) == ["bob"]).await?;
    report.check(lost, "dave knows that only bob is left")?;
    let tally = dave.tell(&format!("square {NIGHT} 4")).await?;
    report.check(tally == "bob=4", "bob gets all requests")?;
    bob.tell(&format!("disable {NIGHT}")).await?;
    report.tell("bob", "disables it");
    dave.sees(|seen| seen.serves(NIGHT).is_empty()).await?;
    nobody_serves(report, dave).await?;
    alice.tell(&format!("enable {NIGHT}")).await?;
    report.tell("alice", "enables it");
    let found = dave.sees(|seen| seen.serves(NIGHT) == ["alice"]).await?;
    report.check(found, "dave has found alice again")?;
    let tally = dave.tell(&format!("square {NIGHT} 4")).await?;
    report.check(tally == "alice=4", "alice gets all requests")
}

async fn nobody_serves(report: &mut Report, who: &mut Actor) -> Result<()> {
    let outcome = who.try_tell(&format!("square {NIGHT} 1")).await?;
    let fails = outcome.is_err_and(|error| error.starts_with("NO_UNIT "));
    report.check(fails, &format!("{}'s request fails: nobody serves {NIGHT}", who.name()))
}

async fn balanced(report: &mut Report, who: &mut Actor, count: u32, tally: &str) -> Result<()> {
    report.tell(who.name(), &format!("sends {count} requests at once"));
    let found = who.tell(&format!("square {MATH} {count}")).await?;
    report.check(found == tally, &format!("all answers are right: {found}"))
}

async fn stream(
    report: &mut Report,
    dave: &mut Actor,
    bob: &mut Actor,
    alice: &mut Actor,
) -> Result<()> {
    fs::write(dave.file(FILE), noise(FILE_SIZE))?;
    let hash = hash(&dave.file(FILE))?;
    dave.tell(&format!("upload {MATH} bob {FILE}")).await?;
    report.tell("dave", &format!("streams {} MiB to bob", FILE_SIZE >> 20));
    let stored = ("dave".to_owned(), FILE.to_owned(), FILE_SIZE as u64);
    bob.sees(|seen| seen.stored.contains(&stored)).await?;
    let same = self::hash(&bob.file(FILE))? == hash;
    report.check(same, &format!("bob's file has the same SHA-256, {}...", &hash[..16]))?;

    alice.tell(&format!("download {MATH} bob {FILE}")).await?;
    report.tell("alice", "asks bob for it");
    let same = self::hash(&alice.file(FILE))? == hash;
    report.check(same, "alice's file has the same SHA-256")?;
    let missing = alice.try_tell(&format!("download {MATH} bob no-such-file")).await?;
    let refused = missing.is_err_and(|error| error.starts_with("REJECTED "));
    report.check(refused, "a file that bob does not have is refused")
}

fn hash(path: &Path) -> Result<String> {
    let digest = Sha256::digest(fs::read(path)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Bytes without a pattern, the same every time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}
