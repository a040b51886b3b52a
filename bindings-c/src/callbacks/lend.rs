//! What a callback is lent: handles that end with it.

use std::{any::Any, ptr::NonNull};

use engine::{Context, Unit};

use crate::{
    border::{
        failure::{Failure, Status},
        handles::roletalk_unit,
        units::LentUnit,
    },
    callbacks::frame::{self, Lent},
};

/// Something that came for a handler, until it is answered.
pub(crate) trait Lendable: Any {
    /// What the handler is looking at.
    fn context(&self) -> &Context;

    /// Whether a handler can still do something with it.
    fn is_open(&self) -> bool;
}

/// A handle that lives as long as the callback that it is lent to.
pub(crate) fn lend_unit(unit: &Unit) -> roletalk_unit {
    let known = frame::with(|frame| frame.lent.handle_if(|known| known == unit));
    known.map_or(roletalk_unit::NONE, |known| known.unwrap_or_else(|| lend_new_unit(unit.clone())))
}

impl Lent {
    /// The handle of the unit that the last callback was about, if it is this one.
    fn handle_if(&self, is: impl FnOnce(&Unit) -> bool) -> Option<roletalk_unit> {
        self.unit.as_ref().filter(|known| is(known.unit())).map(LentUnit::handle)
    }

    /// Shows the handler what it is to answer.
    fn show<E: Lendable>(&mut self, slot: &mut Option<E>) -> u64 {
        self.number = self.numbers.next();
        self.exchange = Some(NonNull::from(slot));
        self.number
    }
}

/// Another unit than the last time.
fn lend_new_unit(unit: Unit) -> roletalk_unit {
    let lent = LentUnit::new(unit);
    let handle = lent.handle();
    // The one before is dropped without the frame.
    let _old = frame::with(|frame| frame.lent.unit.replace(lent));
    handle
}

/// Runs a handler that is to answer what is in `slot`, which it may take out: it is told the number of
/// the handle of that and that of the unit. Not while the thread ends: nothing is known of callbacks then.
pub(crate) fn lend_exchange<E: Lendable>(
    slot: &mut Option<E>,
    call: impl FnOnce(u64, roletalk_unit),
) {
    let known = frame::with(|frame| {
        let context = slot.as_ref().map(E::context)?;
        let unit = frame.lent.handle_if(|known| context.is_from(known))?;
        Some((frame.lent.show(slot), unit))
    });
    let (number, unit) = match known.flatten() {
        Some((number, unit)) => (Some(number), unit),
        None => {
            let Some(unit) = slot.as_ref().map(|exchange| exchange.context().unit()) else {
                return;
            };
            let unit = lend_new_unit(unit);
            (frame::with(|frame| frame.lent.show(slot)), unit)
        }
    };
    if let Some(number) = number {
        call(number, unit);
        // Dropped without the frame.
        let _looked_at = frame::with(|frame| {
            frame.lent.exchange = None;
            frame.lent.looked_at.take()
        });
    }
}

/// Works on what the running handler is to answer.
///
/// # Errors
/// `Status::InvalidHandle` when it was answered or deferred, or the handle is not the running handler's.
pub(crate) fn with_exchange<E: Lendable, T>(
    handle: u64,
    work: impl FnOnce(&mut E) -> T,
) -> Result<T, Failure> {
    with_slot(handle, |slot: &mut Option<E>| slot.as_mut().map(work))
}

fn with_slot<E: Lendable, T>(
    handle: u64,
    work: impl FnOnce(&mut Option<E>) -> Option<T>,
) -> Result<T, Failure> {
    let text =
        "The handler has answered or deferred already, or it has returned, or runs elsewhere";
    frame::with(|frame| {
        let slot = frame.lent.exchange.filter(|_| frame.lent.number == handle)?;
        // SAFETY: `lend_exchange` has exclusive access to the slot, takes it back from the frame when the
        // handler has returned, and leaves it alone until then; only this thread sees the frame.
        let slot = unsafe { &mut *slot.as_ptr() }.downcast_mut::<Option<E>>()?;
        slot.as_ref().is_some_and(E::is_open).then(|| work(slot))
    })
    .flatten()
    .flatten()
    .ok_or_else(|| Failure::new(Status::InvalidHandle, text))
}

/// Takes what the running handler is to answer, which may go on looking at it.
///
/// # Errors
/// As [`with_exchange`].
pub(crate) fn part_with_exchange<E: Lendable>(handle: u64) -> Result<E, Failure> {
    let exchange: E = with_slot(handle, Option::take)?;
    frame::with(|frame| frame.lent.looked_at = Some(exchange.context().clone()));
    Ok(exchange)
}
