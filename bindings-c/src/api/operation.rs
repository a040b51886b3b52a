//! What is under way and will call back.

use std::sync::Arc;

use engine::Call;

use crate::{
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::roletalk_operation,
        memory::put_optional,
        table,
    },
    callbacks::{
        completion::Completion,
        item::{Item, Task},
    },
};

/// What the program has a handle of.
pub(crate) enum Operation {
    Task(Arc<Task>),
    Request(Call),
}

/// Begins something that ends with a completion. What fails at once is an error, and no callback.
///
/// # Safety
/// `operation` is NULL or points to a `roletalk_operation`.
pub(crate) unsafe fn start<R, F, T>(
    begin: impl Future<Output = engine::Result<R>> + Send + 'static,
    completion: Completion<F, T>,
    operation: *mut roletalk_operation,
    outcome: fn(R) -> T,
) -> Result<(), Failure>
where
    R: Send + 'static,
    F: Copy + Send + 'static,
    T: 'static,
{
    // There may be nothing to cancel in the end.
    let none = || roletalk_operation { id: 0 };
    // SAFETY: the caller's promise.
    if let Err(failure) = unsafe { put_optional(operation, "operation", none) } {
        return completion.refuse(failure);
    }
    let queue = completion.queue.clone();
    let started =
        Task::start(&queue, begin, (completion, outcome), |(completion, outcome), result| {
            completion.complete(result.map(outcome).map_err(Failure::from));
        });
    match started {
        // SAFETY: the caller's promise.
        Ok(task) => unsafe { put_operation(operation, Operation::Task(task)) },
        Err((Err(error), (completion, _))) if never_began(&error) => {
            completion.refuse(error.into())
        }
        Err((Err(error), (completion, _))) => {
            let call = move || completion.complete(Err(error.into()));
            queue.push(Item::Call(Box::new(call)));
            Ok(())
        }
        Err((Ok(result), (completion, outcome))) => {
            let call = move || completion.complete(Ok(outcome(result)));
            queue.push(Item::Call(Box::new(call)));
            Ok(())
        }
    }
}

/// Whether the error says that nothing was sent. The answer to what was sent may be there already, too:
/// that comes by callback in any case.
fn never_began(error: &engine::Error) -> bool {
    use engine::ErrorKind::{
        Cancelled, Closed, ConnectionLost, InvalidArgument, NoUnit, Overloaded, Timeout, Tls,
        TooLarge, Unsupported,
    };
    matches!(
        error.kind(),
        Cancelled
            | Closed
            | ConnectionLost
            | InvalidArgument
            | NoUnit
            | Overloaded
            // Its parent has no time left.
            | Timeout
            | Tls
            | TooLarge
            | Unsupported
    )
}

/// Gives the program a handle of what is under way, if it wants one.
///
/// # Safety
/// `operation` is NULL or points to a `roletalk_operation`.
pub(crate) unsafe fn put_operation(
    operation: *mut roletalk_operation,
    what: Operation,
) -> Result<(), Failure> {
    let insert = || roletalk_operation { id: table::insert(Arc::new(what)) };
    // SAFETY: the caller's promise.
    unsafe { put_optional(operation, "operation", insert) }
}

/// Cancels an operation: its callback is called with ROLETALK_STATUS_CANCELED soon; a subscription is
/// called no more. The handlers of requests and of streams that were not accepted yet are canceled, if the other side
/// knows how to (docs/PROTOCOL.md, section 14).
///
/// Errors: ROLETALK_STATUS_END when it has ended already, also while its callback is running. Any thread,
/// also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_operation_cancel(operation: roletalk_operation) -> roletalk_status {
    enter(|| {
        let canceled = match &*table::get::<Operation>(operation.id)? {
            Operation::Task(task) => task.cancel(),
            Operation::Request(call) => call.cancel(),
        };
        match canceled {
            true => Ok(()),
            false => Err(Failure::new(Status::End, "The operation has ended already")),
        }
    })
}

/// Frees the handle. The operation goes on, and calls back.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_operation_free(operation: roletalk_operation) -> roletalk_status {
    enter(|| table::remove::<Operation>(operation.id).map(drop))
}
