//! Functions that choose a unit.

use std::{os::raw::c_void, sync::Arc};

use arc_swap::ArcSwapOption;
use engine::{Candidate, Error, ErrorKind};

use crate::{
    border::{
        failure::Failure,
        sized::sized,
        values::{roletalk_pair, roletalk_string},
    },
    callbacks::{
        closure::{Closure, roletalk_drop},
        frame,
        item::Callbacks,
    },
};

/// What a roletalk_choose_handler returns when none of the candidates will do.
pub const ROLETALK_CHOOSE_NONE: i64 = -1;
/// What a roletalk_choose_handler returns when it has failed.
pub const ROLETALK_CHOOSE_FAILED: i64 = -2;

/// A unit that can be asked. Valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_candidate {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// The remote peer's id.
    pub id: roletalk_string,
    /// Its name; may be empty.
    pub name: roletalk_string,
    /// Its tags.
    pub tags: *const roletalk_pair,
    /// How many tags.
    pub tag_count: usize,
    /// Requests that wait for its answer.
    pub waiting: u64,
    /// Microseconds that an answer is likely to take, by what its answers have taken and how long it has been silent;
    /// 0 when nothing is known.
    pub answer_time_us: i64,
}

sized!(roletalk_candidate);

/// Called to choose a unit. Unlike other callbacks it is called on whichever thread sends, or sends again what
/// a unit has not begun, and on several at the same time. It must return soon. Calls that wait return
/// ROLETALK_STATUS_WOULD_DEADLOCK inside, as in callbacks of ROLETALK_CALLBACKS_INLINE; everything else may be
/// called, sending and closing included. A context that is not deferred is not valid inside.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_choose_handler {
    /// The function; not NULL. `candidates` points to `count` pointers, at least one: to those that can be asked, in
    /// the order in which they were found. It returns the place of one of them, counted from 0.
    /// ROLETALK_CHOOSE_NONE, or a place that there is not, means that none of them will do: then it is as if no unit
    /// served the role. ROLETALK_CHOOSE_FAILED ends at once what is sent, also what waits for a unit, goes on to
    /// another or is made again, with ROLETALK_STATUS_INVALID_ARGUMENT.
    pub call: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            candidates: *const *const roletalk_candidate,
            count: usize,
        ) -> i64,
    >,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

type ChooseCall = unsafe extern "C" fn(*mut c_void, *const *const roletalk_candidate, usize) -> i64;

/// What the handle of a chooser stands for.
pub(crate) struct Chooser(Arc<Closure<ChooseCall>>);

impl Chooser {
    /// # Errors
    /// `Status::InvalidArgument` when there is no function.
    pub(crate) fn new(handler: roletalk_choose_handler) -> Result<Chooser, Failure> {
        let closure = Closure::new(handler.call, handler.user_data, handler.drop);
        match closure.parts() {
            Some(_) => Ok(Chooser(Arc::new(closure))),
            None => Err(Failure::null("call")),
        }
    }

    /// For a balance of this peer's.
    pub(crate) fn hold(&self, queue: &Arc<Callbacks>) -> Arc<Held> {
        let chooser = ArcSwapOption::new(Some(self.0.clone()));
        Arc::new(Held { chooser, queue: queue.clone() })
    }
}

/// A chooser that something of a peer's uses. The last one that lets go of the function has its `drop` called where the
/// peer's callbacks run, since it may hold a lock.
pub(crate) struct Held {
    chooser: ArcSwapOption<Closure<ChooseCall>>,
    queue: Arc<Callbacks>,
}

impl Held {
    /// The place of one of the candidates, or some other number.
    ///
    /// # Errors
    /// `ErrorKind::InvalidArgument` when the function has failed.
    pub(crate) fn choose(&self, candidates: &[Candidate<'_>]) -> engine::Result<Option<usize>> {
        let Some(chooser) = self.chooser.load_full() else { return Ok(None) };
        let place = chooser.parts().map(|parts| call(parts, candidates));
        self.let_go(Some(chooser));
        match place {
            Some(ROLETALK_CHOOSE_FAILED) => {
                let text = "The function that chooses the unit failed";
                let hint = "It returned ROLETALK_CHOOSE_FAILED. ROLETALK_CHOOSE_NONE says that no unit will do.";
                Err(Error::new(ErrorKind::InvalidArgument, text).with_hint(hint))
            }
            place => Ok(place.and_then(|place| usize::try_from(place).ok())),
        }
    }

    /// Uses it no longer.
    pub(crate) fn end(&self) {
        self.let_go(self.chooser.swap(None));
    }

    fn let_go(&self, chooser: Option<Arc<Closure<ChooseCall>>>) {
        if let Some(last) = chooser.and_then(Arc::into_inner) {
            drop(last.bind(&self.queue));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end();
    }
}

fn call((function, user_data): (ChooseCall, *mut c_void), candidates: &[Candidate<'_>]) -> i64 {
    let pair = |(key, value): (&String, &String)| roletalk_pair {
        key: roletalk_string::lend(key),
        value: roletalk_string::lend(value),
    };
    let tags: Vec<_> =
        candidates.iter().flat_map(|candidate| candidate.tags.iter().map(pair)).collect();
    let mut rest = &*tags;
    let views = candidates.iter().map(|candidate| {
        let (tags, behind) = rest.split_at(candidate.tags.len());
        rest = behind;
        roletalk_candidate {
            struct_size: size_of::<roletalk_candidate>(),
            id: roletalk_string::lend(candidate.id),
            name: roletalk_string::lend(candidate.name),
            tags: tags.as_ptr(),
            tag_count: tags.len(),
            waiting: candidate.waiting as u64,
            answer_time_us: i64::try_from(candidate.answer_time.as_micros()).unwrap_or(i64::MAX),
        }
    });
    let views: Vec<_> = views.collect();
    let pointers: Vec<_> = views.iter().map(std::ptr::from_ref).collect();
    // SAFETY: function and argument were given together, and no lock is held; the views point into what is
    // borrowed here.
    frame::hold_up(|| unsafe { function(user_data, pointers.as_ptr(), pointers.len()) })
}
