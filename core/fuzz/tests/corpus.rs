//! Every target on its stored corpus, each input a test with its name, and on mutations of it.
//!
//! `ROLETALK_FUZZ_SEED` repeats a run, `ROLETALK_FUZZ_RUNS` (for each target) makes it longer. `make
//! fuzz` searches much better, this is what needs no special build.

use std::{
    fmt::Write,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use libtest_mimic::{Arguments, Failed, Trial};
use roletalk_fuzz::{TARGETS, Target};

const MAX_LEN: usize = 4096;
/// Mutations of each target: a second or two of work, as much on every machine.
const RUNS: [(&str, u64); 6] = [
    ("fields", 10_000),
    ("frames", 20_000),
    ("handshake", 2_000),
    ("policy", 5_000),
    ("stream", 600),
    ("websocket", 15_000),
];

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "no corpus for {name}");
        for (path, input) in &corpus {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let input = input.clone();
            trials.push(Trial::test(format!("{name}::{file}"), move || {
                check(target, name, &input, "this stored input")
            }));
        }
        let mutations = move || mutations(name, target, &corpus);
        trials.push(Trial::test(format!("{name}::mutations"), mutations));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn mutations(name: &str, target: Target, corpus: &[(PathBuf, Vec<u8>)]) -> Result<(), Failed> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("ROLETALK_FUZZ_SEED").unwrap_or_else(now);
    let (_, runs) = RUNS.into_iter().find(|(known, _)| *known == name).ok_or("how many runs?")?;
    let mut random = Random(seed);
    for run in 0..number("ROLETALK_FUZZ_RUNS").unwrap_or(runs) {
        let input = mutate(corpus, &mut random);
        check(target, name, &input, &format!("run {run} with ROLETALK_FUZZ_SEED={seed}"))?;
    }
    Ok(())
}

/// Runs the target, and says what to do with an input that fails.
fn check(target: Target, name: &str, input: &[u8], what: &str) -> Result<(), Failed> {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) else { return Ok(()) };
    let hex = input.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    let failed = format!(
        "{text}\n{name}: {what} fails. The input:\n{hex}\n\
         To repeat it, and to keep it for good, give it a name that says what it is:\n\
         echo {hex} | xxd -r -p > core/fuzz/corpus/{name}/NAME"
    );
    Err(failed.into())
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
