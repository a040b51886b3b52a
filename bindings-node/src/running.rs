//! Which requests wait for an answer of this peer, by what the remote peer calls them.

use roletalk_engine::{Question, RequestId, UnitId};
use rustc_hash::FxHashMap;

use crate::slab::Slab;

/// What waits for an answer.
pub(crate) trait Asked {
    /// The request, if somebody waits for its answer.
    fn request(&self) -> Option<RequestId>;
}

impl Asked for (UnitId, Question) {
    fn request(&self) -> Option<RequestId> {
        self.1.request()
    }
}

/// Number and generation of a question.
type Numbers = (u32, u32);

/// So many that are over are kept at least before they are swept.
const SWEEP: usize = 1024;

/// Finds the question of a request that is given up.
///
/// `roletalk_host::Running` would be told of each that begins and ends, which costs 20 to 30 ns. Nearly all end without being looked for: so they are only noted, and the notes of those that are
/// over are swept from time to time.
#[derive(Debug, Default)]
pub(crate) struct Running {
    /// Those that were noted since one was looked for.
    noted: Vec<Numbers>,
    found: FxHashMap<RequestId, Numbers>,
}

impl Running {
    /// A handler is called for a question.
    #[inline]
    pub(crate) fn note<Q>(&mut self, numbers: Numbers, questions: &Slab<Q>) {
        if self.noted.len() + self.found.len() >= SWEEP + 2 * questions.len() {
            self.sweep(questions);
        }
        self.noted.push(numbers);
    }

    #[cold]
    fn sweep<Q>(&mut self, questions: &Slab<Q>) {
        let runs = |(number, generation): Numbers| questions.checked(number, generation).is_some();
        self.noted.retain(|numbers| runs(*numbers));
        self.found.retain(|_, numbers| runs(*numbers));
    }

    /// The question of a request, if its handler is still running.
    pub(crate) fn find<Q: Asked>(
        &mut self,
        request: RequestId,
        questions: &Slab<Q>,
    ) -> Option<Numbers> {
        for (number, generation) in self.noted.drain(..) {
            let question = questions.checked(number, generation);
            if let Some(request) = question.and_then(Asked::request) {
                self.found.insert(request, (number, generation));
            }
        }
        let (number, generation) = self.found.remove(&request)?;
        questions.checked(number, generation).map(|_| (number, generation))
    }
}

#[cfg(test)]
mod tests {
    use roletalk_engine::ConnId;

    use super::*;

    impl Asked for RequestId {
        fn request(&self) -> Option<RequestId> {
            Some(*self)
        }
    }

    fn request(corr: u64) -> RequestId {
        RequestId { conn: ConnId(1), corr }
    }

    #[test]
    fn those_that_run_are_found_once() {
        let (mut questions, mut running) = (Slab::default(), Running::default());
        let numbers: Vec<_> = (0..10).map(|corr| questions.insert(request(corr))).collect();
        numbers.iter().for_each(|numbers| running.note(*numbers, &questions));
        questions.remove(numbers[3].0);
        // The sender uses the number again, and so do we.
        let again = questions.insert(request(3));
        running.note(again, &questions);
        assert_eq!(running.find(request(3), &questions), Some(again));
        assert_eq!(running.find(request(3), &questions), None);
        questions.remove(numbers[4].0);
        assert_eq!(running.find(request(4), &questions), None);
        assert_eq!(running.find(request(9), &questions), Some(numbers[9]));
        assert_eq!(running.find(request(10), &questions), None);
    }

    #[test]
    fn those_that_are_over_are_not_kept() {
        let (mut questions, mut running) = (Slab::default(), Running::default());
        let first = questions.insert(request(0));
        running.note(first, &questions);
        for corr in 1..100_000 {
            let numbers = questions.insert(request(corr));
            running.note(numbers, &questions);
            if corr % 10 == 0 {
                running.find(request(corr), &questions);
            }
            questions.remove(numbers.0);
            assert!(running.noted.len() + running.found.len() <= SWEEP + 10, "{corr}");
        }
        assert_eq!(running.find(request(0), &questions), Some(first));
    }
}
