//! The end of an operation, for the program.

use std::{os::raw::c_void, sync::Arc};

use engine::{Answer, Data, Unit};

use crate::{
    border::{
        failure::{Failure, Status, roletalk_status},
        handles::roletalk_unit,
        sized::sized,
        values::{roletalk_data, roletalk_string},
    },
    callbacks::{
        closure::{Closure, roletalk_drop},
        item::{Callbacks, Item},
        lend,
    },
};

/// The end of an operation. Valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_reply {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// ROLETALK_STATUS_OK, or why there is no answer.
    pub status: roletalk_status,
    /// The answer's payload; null if there is none.
    pub data: roletalk_data,
    /// The text that belongs to `status`, such as the reason of a rejection.
    pub error: roletalk_string,
    /// The unit that answered, borrowed; none when it is not known.
    pub unit: roletalk_unit,
    /// For surveys: how many more answers will come.
    pub remaining: usize,
    /// What there is to know besides `error`, and what to try; may be empty.
    pub hint: roletalk_string,
}

/// Called with the end of an operation, where the peer's callbacks run.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_reply_handler {
    /// The function; not NULL.
    pub call: Option<unsafe extern "C" fn(user_data: *mut c_void, reply: *const roletalk_reply)>,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

sized!(roletalk_reply);

pub(crate) type ReplyCall = unsafe extern "C" fn(*mut c_void, *const roletalk_reply);

/// What an operation ended with.
pub(crate) struct Outcome {
    pub(crate) data: Data,
    pub(crate) unit: Option<Unit>,
    pub(crate) failure: Option<Failure>,
    pub(crate) remaining: usize,
}

impl Outcome {
    pub(crate) fn done(data: Data, unit: Option<Unit>) -> Outcome {
        Outcome { data, unit, failure: None, remaining: 0 }
    }

    pub(crate) fn failed(failure: Failure) -> Outcome {
        Outcome { data: Data::null(), unit: None, failure: Some(failure), remaining: 0 }
    }

    /// The answer to a request, or why there is none.
    pub(crate) fn of(answer: engine::Result<Answer>) -> Outcome {
        match answer {
            Ok(answer) => {
                let (unit, data) = answer.into_parts();
                Outcome::done(data, Some(unit))
            }
            Err(error) => Outcome::failed(error.into()),
        }
    }

    /// A view with a unit's handle of the right life. Valid as long as the outcome.
    pub(crate) fn view(&self, unit: impl FnOnce(&Unit) -> roletalk_unit) -> roletalk_reply {
        roletalk_reply {
            struct_size: size_of::<roletalk_reply>(),
            status: self.failure.as_ref().map_or(Status::Ok, Failure::status),
            data: roletalk_data::lend(&self.data),
            error: roletalk_string::lend(self.failure.as_ref().map_or("", Failure::text)),
            unit: self.unit.as_ref().map_or(roletalk_unit::NONE, unit),
            remaining: self.remaining,
            hint: roletalk_string::lend(self.failure.as_ref().map_or("", Failure::hint)),
        }
    }
}

/// A closure that is called once, with what an operation ends with: with ROLETALK_STATUS_CANCELED if it
/// is dropped before.
pub(crate) struct Completion<F: Copy + Send + 'static, T: 'static> {
    /// Not bound to the queue: it is let go of in the callback.
    closure: Option<Closure<F>>,
    pub(crate) queue: Arc<Callbacks>,
    invoke: Invoke<F, T>,
}

/// One for requests.
pub(crate) type Asked = Completion<ReplyCall, Outcome>;

type Invoke<F, T> = fn(F, *mut c_void, Result<T, Failure>);

impl<F: Copy + Send, T> Completion<F, T> {
    /// # Errors
    /// `Status::InvalidArgument` when there is no function.
    pub(crate) fn new(
        closure: Closure<F>,
        queue: &Arc<Callbacks>,
        invoke: Invoke<F, T>,
    ) -> Result<Completion<F, T>, Failure> {
        match closure.parts() {
            Some(_) => Ok(Completion { closure: Some(closure), queue: queue.clone(), invoke }),
            None => Err(Failure::null("call")),
        }
    }

    /// Calls it, where callbacks run.
    pub(crate) fn complete(mut self, result: Result<T, Failure>) {
        if let Some(closure) = self.closure.take() {
            call(closure, self.invoke, result);
        }
    }

    /// Gives the closure up without a call: the operation did not begin.
    pub(crate) fn refuse(mut self, failure: Failure) -> Result<(), Failure> {
        if let Some(closure) = self.closure.take() {
            closure.release_now();
        }
        Err(failure)
    }
}

fn call<F: Copy, T>(closure: Closure<F>, invoke: Invoke<F, T>, result: Result<T, Failure>) {
    if let Some((call, user_data)) = closure.parts() {
        invoke(call, user_data, result);
    }
    closure.release_now();
}

impl<F: Copy + Send + 'static, T: 'static> Drop for Completion<F, T> {
    fn drop(&mut self) {
        if let Some(closure) = self.closure.take() {
            let canceled = Failure::new(Status::Canceled, "The operation was canceled");
            let invoke = self.invoke;
            self.queue.push(Item::Call(Box::new(move || call(closure, invoke, Err(canceled)))));
        }
    }
}

impl Asked {
    /// Calls it with an answer, from where that was read.
    pub(crate) fn answered(self, answer: engine::Result<Answer>) {
        let outcome = Outcome::of(answer);
        if let Some(running) = self.queue.begin_here() {
            return running.run(|| self.complete(Ok(outcome)));
        }
        let queue = self.queue.clone();
        queue.push(Item::Answer(self, outcome));
    }
}

/// For [`Completion`]: calls with a view of the outcome.
pub(crate) fn invoke_reply(
    call: ReplyCall,
    user_data: *mut c_void,
    result: Result<Outcome, Failure>,
) {
    let outcome = result.unwrap_or_else(Outcome::failed);
    let view = outcome.view(lend::lend_unit);
    // SAFETY: function and argument belong together; the view points into `outcome`, and no lock is
    // held.
    unsafe { call(user_data, &view) };
}
