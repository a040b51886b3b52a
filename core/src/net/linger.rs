//! When to look again at once for more to read.

use std::time::Duration;

use crate::engine::Moment;

/// So many bytes in one turn are bulk.
const BULK: usize = 32 << 10;
/// How long to look for more.
const LINGER: Duration = Duration::from_micros(100);
/// After some vain attempts, one in so many bursts is tried.
const MAX_SKIP: u32 = 64;

/// A reader that is faster than the writer empties the socket and sleeps, and the writer pays for
/// waking it up for each piece, which can cost more than sending it. So, while data comes in bulk,
/// the reader looks for more for a short time, letting other tasks run meanwhile, before it sleeps;
/// but not where that brings nothing.
#[derive(Debug, Default)]
pub(super) struct Linger {
    until: Option<Moment>,
    /// When it looked last.
    looked: Moment,
    /// Bursts to let pass without lingering, now and after the next failure.
    skip: u32,
    next_skip: u32,
}

impl Linger {
    /// The socket is empty after so many bytes. Whether to look again at once.
    pub(super) fn emptied(&mut self, read: usize, now: impl FnOnce() -> Moment) -> bool {
        if read == 0 {
            let Some(until) = self.until else { return false };
            let now = now();
            // A clock that stands still, as tokio's does when it is paused, would let it look for ever.
            if now < until && now > self.looked {
                self.looked = now;
                return true;
            }
            self.until = None;
            self.next_skip = (self.next_skip * 2 + 1).min(MAX_SKIP);
            self.skip = self.next_skip;
            return false;
        }
        if self.until.take().is_some() {
            self.next_skip = 0;
        }
        if read < BULK {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.looked = now();
        self.until = Some(self.looked + LINGER);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(micros: u64) -> impl FnOnce() -> Moment {
        move || Moment::at(Duration::from_micros(micros))
    }

    #[test]
    fn it_looks_again_for_a_while_after_bulk_only() {
        let mut linger = Linger::default();
        assert!(!linger.emptied(0, micros(0)));
        assert!(!linger.emptied(100, micros(0)));
        assert!(!linger.emptied(0, micros(1)));
        assert!(linger.emptied(BULK, micros(10)));
        assert!(linger.emptied(0, micros(50)));
        assert!(!linger.emptied(0, micros(110)));
        assert!(!linger.emptied(0, micros(111)));
    }

    #[test]
    fn it_does_not_wait_for_a_clock_that_stands_still() {
        let mut linger = Linger::default();
        assert!(linger.emptied(BULK, micros(10)));
        assert!(linger.emptied(0, micros(20)));
        assert!(!linger.emptied(0, micros(20)));
    }

    #[test]
    fn it_gives_up_where_nothing_comes_and_tries_again_later() {
        let mut linger = Linger::default();
        let mut tries = Vec::new();
        for n in 0..400 {
            if linger.emptied(BULK, micros(n * 1000)) {
                tries.push(n);
                assert!(!linger.emptied(0, micros(n * 1000 + 200)));
            }
        }
        assert_eq!(tries, [0, 2, 6, 14, 30, 62, 126, 191, 256, 321, 386]);
        // Success makes it try always.
        while !linger.emptied(BULK, micros(0)) {}
        for n in 0..10 {
            assert!(linger.emptied(BULK, micros(n * 50)));
        }
    }
}
