//! Questions to every unit that serves a role.

use std::sync::{Arc, Mutex};

use engine::{Answer, Data, Survey, Unit};
use tokio::runtime::Handle;

use crate::{
    api::{
        destination::{
            answer::put_answer,
            object::DestinationObject,
            options::{Given, given, owned, roletalk_send_options, to_all},
        },
        operation::{Operation, put_operation},
    },
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::{roletalk_answer, roletalk_destination, roletalk_operation, roletalk_survey},
        memory::{check_optional, check_out, put},
        table,
        values::{roletalk_data, roletalk_string},
    },
    callbacks::{
        closure::Closure,
        completion::{Outcome, invoke_reply, roletalk_reply_handler},
        item::Task,
    },
    runtime::wait::{Limit, block_on},
};

struct SurveyObject {
    survey: Mutex<Survey>,
    runtime: Handle,
}

impl Given<'_> {
    fn survey(self, data: Data) -> Result<(Arc<DestinationObject>, Survey), Failure> {
        let Given { object, event, options, .. } = self;
        options.not_for_units()?;
        let asking = options.asking()?;
        let to = to_all(&asking.more, &object.destination);
        let survey = to.survey_within(event, data, asking.timeout);
        Ok((object, survey))
    }
}

/// Asks every unit that serves the role. `options` may be NULL; `options->timeout_ms` limits each answer.
/// Take the answers with roletalk_survey_next; the caller ends the survey with roletalk_survey_close.
/// Nothing is sent before the first roletalk_survey_next.
///
/// Errors: ROLETALK_STATUS_DATA. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_survey(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    survey: *mut roletalk_survey,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let given = unsafe { given(destination, event, data, options) }?;
        check_out(survey, "survey")?;
        let data = owned(given.payload);
        let (object, made) = given.survey(data)?;
        let runtime = object.runtime.clone();
        let id = table::insert(Arc::new(SurveyObject { survey: Mutex::new(made), runtime }));
        // SAFETY: as above.
        unsafe { put(survey, roletalk_survey { id }, "survey") }
    })
}

/// Waits for the next answer: for `timeout_ms` milliseconds, without a limit if that is negative, not at
/// all if it is 0. The caller frees the answer with roletalk_answer_free; its status says whether that unit
/// gave one, roletalk_answer_unit which it was.
///
/// Errors: ROLETALK_STATUS_END when every unit has been heard, ROLETALK_STATUS_TIMEOUT,
/// ROLETALK_STATUS_WOULD_BLOCK. One thread at a time, ROLETALK_STATUS_INVALID_ARGUMENT for others; in
/// callbacks as every call that waits.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_survey_next(
    survey: roletalk_survey,
    timeout_ms: i64,
    answer: *mut roletalk_answer,
) -> roletalk_status {
    enter(|| {
        check_out(answer, "answer")?;
        let object = table::get::<SurveyObject>(survey.id)?;
        let mut survey = match object.survey.try_lock() {
            Ok(survey) => survey,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => {
                return Err(Failure::invalid("Another thread waits for this survey"));
            }
        };
        let limit = Limit::from_millis(timeout_ms);
        match block_on(Some(&object.runtime), limit, survey.next())? {
            // SAFETY: the contract of pointers in the header's introduction.
            Some((unit, answered)) => unsafe {
                put_answer(answer, survey_outcome(unit, answered, 0))
            },
            None => Err(Failure::new(Status::End, "Every unit has been heard")),
        }
    })
}

fn survey_outcome(unit: Unit, answer: engine::Result<Answer>, remaining: usize) -> Outcome {
    Outcome { unit: Some(unit), remaining, ..Outcome::of(answer) }
}

/// Ends a survey, waiting for further answers included, and its handle.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_survey_close(survey: roletalk_survey) -> roletalk_status {
    enter(|| table::remove::<SurveyObject>(survey.id).map(drop))
}

/// Asks every unit that serves the role, without waiting: `handler` is called for each with its answer
/// or why there is none, and how many remain. When none serves it, there is no call. `handler.drop` is
/// called after the last one, or when this fails. `options` and `operation` may be NULL;
/// when the operation is canceled there are no more calls.
///
/// Errors: ROLETALK_STATUS_DATA. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_survey_async(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    handler: roletalk_reply_handler,
    operation: *mut roletalk_operation,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let given = unsafe { given(destination, event, data, options) }?;
        check_optional(operation, "operation")?;
        let kept = given.object.keep.copy(given.payload)?;
        let (object, mut survey) = given.survey(kept.data.clone())?;
        let closure = closure.bind(&object.queue)?;
        let hearing = async move {
            let _kept = kept;
            let mut remaining = survey.asked();
            while let Some((unit, answer)) = survey.next().await {
                remaining -= 1;
                if let Some((call, user_data)) = closure.parts() {
                    let outcome = survey_outcome(unit, answer, remaining);
                    invoke_reply(call, user_data.cast(), Ok(outcome));
                }
            }
        };
        let task = Task::spawn(&object.queue, hearing);
        // SAFETY: as above.
        unsafe { put_operation(operation, Operation::Task(task)) }
    })
}
