//! What blocking calls are answered with.

use std::sync::Arc;

use crate::{
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::{roletalk_answer, roletalk_unit},
        memory::{check_out, put, put_optional},
        sized, table, units,
    },
    callbacks::completion::{Outcome, roletalk_reply},
};

/// What a blocking call was answered with.
struct AnswerObject(Outcome);

/// # Safety
/// `answer` is NULL or points to a `roletalk_answer`.
pub(super) unsafe fn put_answer(
    answer: *mut roletalk_answer,
    outcome: Outcome,
) -> Result<(), Failure> {
    let insert = || roletalk_answer { id: table::insert(Arc::new(AnswerObject(outcome))) };
    // SAFETY: the caller's promise.
    unsafe { put_optional(answer, "answer", insert) }
}

/// Shows an answer. `reply->struct_size` must be set. The pointers are valid until the answer is
/// freed; `reply->unit` is none: see roletalk_answer_unit.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_answer_view(
    answer: roletalk_answer,
    reply: *mut roletalk_reply,
) -> roletalk_status {
    enter(|| {
        let answer = table::get::<AnswerObject>(answer.id)?;
        let view = answer.0.view(|_| roletalk_unit::NONE);
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { sized::write(reply, &view) }
    })
}

/// The unit that answered. The caller frees it with roletalk_unit_free.
///
/// Errors: ROLETALK_STATUS_NO_UNIT when it is not known. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_answer_unit(
    answer: roletalk_answer,
    unit: *mut roletalk_unit,
) -> roletalk_status {
    enter(|| {
        check_out(unit, "unit")?;
        let answer = table::get::<AnswerObject>(answer.id)?;
        let none = || Failure::new(Status::NoUnit, "It is not known which unit answered");
        let handle = units::insert(answer.0.unit.clone().ok_or_else(none)?);
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(unit, handle, "unit") }
    })
}

/// Frees an answer; pointers into it end.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_answer_free(answer: roletalk_answer) -> roletalk_status {
    enter(|| table::remove::<AnswerObject>(answer.id).map(drop))
}
