//! The border itself: what every exported function passes, and no panic.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::border::{
    failure::{Failure, Status},
    process,
};

thread_local! {
    static LAST: RefCell<Last> = const { RefCell::new(Last::NONE) };
}

/// A thread's last error.
pub(crate) struct Last {
    pub(crate) text: String,
    pub(crate) hint: String,
    pub(crate) code: String,
    pub(crate) data: String,
    pub(crate) retry_after_ms: i64,
    pub(crate) unhandled: bool,
}

impl Last {
    const NONE: Last = Last {
        text: String::new(),
        hint: String::new(),
        code: String::new(),
        data: String::new(),
        retry_after_ms: -1,
        unhandled: false,
    };
}

/// Runs the body of an exported function: not in the child of a fork, and no panic leaves it.
pub(crate) fn enter(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    enter_any(|| process::check().and_then(|()| body()))
}

/// As [`enter`], also in the child of a fork.
pub(crate) fn enter_any(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::Ok,
        Ok(Err(failure)) => report(failure),
        Err(panic) => {
            // What was thrown may throw again when it is dropped.
            std::mem::forget(panic);
            report(Failure::new(Status::Internal, "The library panicked: this is a bug of it"))
        }
    }
}

/// Makes it this thread's last error.
fn report(failure: Failure) -> Status {
    // While the thread ends there is no text any more.
    let _ = LAST.try_with(|last| {
        let mut last = last.borrow_mut();
        let said = failure.said();
        let last = &mut *last;
        for (known, new) in [
            (&mut last.text, failure.text()),
            (&mut last.hint, failure.hint()),
            (&mut last.code, said.code),
            (&mut last.data, said.data),
        ] {
            known.clear();
            known.push_str(new);
        }
        last.retry_after_ms = said.retry_after_ms;
        last.unhandled = said.unhandled;
    });
    failure.status()
}

/// Works on this thread's last error; `None` while the thread ends.
pub(crate) fn with_last_error<T>(work: impl FnOnce(&Last) -> T) -> Option<T> {
    LAST.try_with(|last| work(&last.borrow())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(enter(|| panic!("on purpose")), Status::Internal);
        assert_eq!(enter(|| Err(Failure::invalid("text"))), Status::InvalidArgument);
        assert_eq!(enter(|| Ok(())), Status::Ok);
        assert_eq!(with_last_error(|last| last.text.clone()).as_deref(), Some("text"));
    }
}
