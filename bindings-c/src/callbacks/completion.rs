//! The end of an operation, for the program.

use std::{os::raw::c_void, sync::Arc};

use engine::{Answer, Data, Unit};

use crate::{
    border::{
        failure::{Failure, Said, Status, roletalk_status},
        handles::roletalk_unit,
        headers::{Headers, roletalk_header},
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
    /// The headers of the answer, in the order in which its handler has added them. See roletalk_header_value.
    pub headers: *const roletalk_header,
    /// How many headers.
    pub header_count: usize,
    /// The name that the handler has given its failure (roletalk_failure.code); may be empty.
    pub error_code: roletalk_string,
    /// What the handler has added to its failure (roletalk_failure.data): JSON; may be empty.
    pub error_data: roletalk_string,
    /// After how many milliseconds, says the handler, it is worth trying again; -1 when it says nothing.
    pub retry_after_ms: i64,
    /// Whether the other side has said that it has begun no handler, so that surely nothing was done: 1 or 0,
    /// which says nothing.
    pub unhandled: i32,
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
    pub(crate) headers: Option<Box<Headers>>,
}

impl Outcome {
    pub(crate) fn done(data: Data, unit: Option<Unit>) -> Outcome {
        Outcome { data, unit, failure: None, remaining: 0, headers: None }
    }

    pub(crate) fn failed(failure: Failure) -> Outcome {
        Outcome { failure: Some(failure), ..Outcome::done(Data::null(), None) }
    }

    /// The answer to a request, or why there is none.
    pub(crate) fn of(answer: engine::Result<Answer>) -> Outcome {
        match answer {
            Ok(answer) => {
                let headers = Headers::of(answer.headers());
                let (unit, data) = answer.into_parts();
                Outcome { headers, ..Outcome::done(data, Some(unit)) }
            }
            Err(error) => Outcome::failed(error.into()),
        }
    }

    /// A view with a unit's handle of the right life. Valid as long as the outcome.
    pub(crate) fn view(&self, unit: impl FnOnce(&Unit) -> roletalk_unit) -> roletalk_reply {
        let headers = self.headers.as_ref().map_or(&[][..], |headers| headers.list());
        let said = self.failure.as_ref().map_or(Said::NOTHING, Failure::said);
        roletalk_reply {
            struct_size: size_of::<roletalk_reply>(),
            status: self.failure.as_ref().map_or(Status::Ok, Failure::status),
            data: roletalk_data::lend(&self.data),
            error: roletalk_string::lend(self.failure.as_ref().map_or("", Failure::text)),
            unit: self.unit.as_ref().map_or(roletalk_unit::NONE, unit),
            remaining: self.remaining,
            hint: roletalk_string::lend(self.failure.as_ref().map_or("", Failure::hint)),
            headers: headers.as_ptr(),
            header_count: headers.len(),
            error_code: roletalk_string::lend(said.code),
            error_data: roletalk_string::lend(said.data),
            retry_after_ms: said.retry_after_ms,
            unhandled: i32::from(said.unhandled),
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
