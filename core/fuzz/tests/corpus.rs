//! Every target on its stored corpus, and for a few seconds on mutations of it.
//!
//! `ROLETALK_FUZZ_SEED` repeats a run, `ROLETALK_FUZZ_SECONDS` (for each target, default 2) makes it
//! longer. `make fuzz` searches much better, this is what needs no special build.

use std::{
    fmt::Write,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use roletalk_fuzz::{TARGETS, Target};

const MAX_LEN: usize = 4096;

#[test]
fn frames() {
    run("frames");
}

#[test]
fn handshake() {
    run("handshake");
}

#[test]
fn stream() {
    run("stream");
}

#[test]
fn websocket() {
    run("websocket");
}

fn run(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "no corpus for {name}");
    for (path, input) in &corpus {
        let stored = path.display();
        check(target, name, input, &format!("the stored input {stored} fails"));
    }

    let seed = number("ROLETALK_FUZZ_SEED")
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    let limit = Duration::from_secs(number("ROLETALK_FUZZ_SECONDS").unwrap_or(2));
    println!("{name}: {} stored inputs passed, mutating: ROLETALK_FUZZ_SEED={seed}", corpus.len());
    let mut random = Random(seed);
    let (begun, mut runs) = (Instant::now(), 0u64);
    while begun.elapsed() < limit {
        let input = mutate(&corpus, &mut random);
        check(target, name, &input, &format!("found after {runs} runs, ROLETALK_FUZZ_SEED={seed}"));
        runs += 1;
    }
    println!("{name}: {runs} mutations passed");
}

/// Runs the target, and says what to do with an input that fails.
fn check(target: Target, name: &str, input: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let hex = input.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        eprintln!(
            "{name}: {what}. The input:\n{hex}\n\
             To repeat it, and to keep it for good, give it a name that says what it is:\n\
             echo {hex} | xxd -r -p > core/fuzz/corpus/{name}/NAME"
        );
        std::panic::resume_unwind(panic);
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The same order everywhere: the seed's meaning depends on it.
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// A stored input with a few changes.
fn mutate(corpus: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].1.clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(16)).min(input.len());
        let byte = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6)];
        match random.below(7) {
            0 if at < input.len() => input[at] = byte,
            1 if at < input.len() => input[at] ^= 1 << random.below(8),
            2 => input.insert(at, byte),
            3 => drop(input.drain(at..end)),
            4 => input.extend_from_within(at..end),
            5 => drop(input.splice(at..at, vec![byte; end - at])),
            _ => {
                let other = &corpus[random.below(corpus.len())].1;
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(MAX_LEN);
    input
}
