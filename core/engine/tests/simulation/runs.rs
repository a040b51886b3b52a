//! Runs of networks as tests, each of one seed: fixed ones, one that nobody has tried, and a soak. See
//! CONTRIBUTING.md for how to repeat one.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use libtest_mimic::{Failed, Trial};

use super::rng::Rng;

/// One of the networks that are simulated.
#[derive(Clone, Copy)]
pub(crate) struct Network<T: Copy + 'static> {
    pub(crate) name: &'static str,
    /// Seeds that are always run.
    pub(crate) seeds: &'static [u64],
    /// Panics when a promise is broken.
    pub(crate) run: fn(u64) -> T,
}

impl<T: Copy + 'static> Network<T> {
    /// A test for each seed, and one for a seed that nobody has tried; only the given one when there is
    /// one.
    pub(crate) fn trials(self) -> Vec<Trial> {
        if let Some(seed) = given_seed() {
            return vec![self.trial(seed)];
        }
        let mut trials: Vec<_> = self.seeds.iter().map(|seed| self.trial(*seed)).collect();
        let new = format!("{}::a_new_seed", self.name);
        trials.push(Trial::test(new, move || self.check(random_seed())));
        if let Some(seconds) = soak_seconds() {
            let soak = format!("{}::new_seeds_for_{seconds}_seconds", self.name);
            trials.push(Trial::test(soak, move || self.soak(Duration::from_secs(seconds))));
        }
        trials
    }

    fn trial(self, seed: u64) -> Trial {
        Trial::test(format!("{}::seed_{seed:#x}", self.name), move || self.check(seed))
    }

    fn check(self, seed: u64) -> Result<(), Failed> {
        let run = AssertUnwindSafe(|| (self.run)(seed));
        std::panic::catch_unwind(run).map(drop).map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            let (package, test) = (env!("CARGO_PKG_NAME"), env!("CARGO_CRATE_NAME"));
            let repeat =
                format!("ROLETALK_SIM_SEED={seed:#x} cargo test -p {package} --test {test}");
            format!("{text}\nseed {seed:#x}; repeat with {repeat} -- {}::", self.name).into()
        })
    }

    fn soak(self, time: Duration) -> Result<(), Failed> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let (seed, begun) = (random_seed(), Instant::now());
            println!("{}: seed {seed:#x}", self.name);
            self.check(seed)?;
            println!("{}: seed {seed:#x} took {:?}", self.name, begun.elapsed());
        }
        Ok(())
    }
}

fn given_seed() -> Option<u64> {
    let seed = std::env::var("ROLETALK_SIM_SEED").ok()?;
    let seed = seed.trim();
    let parsed = match seed.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => seed.parse(),
    };
    Some(parsed.expect("ROLETALK_SIM_SEED is a number"))
}

fn soak_seconds() -> Option<u64> {
    let seconds = std::env::var("ROLETALK_SIM_SECONDS").ok()?;
    Some(seconds.trim().parse().expect("ROLETALK_SIM_SECONDS is a number"))
}

fn random_seed() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Rng::new(time.as_nanos() as u64).next()
}
