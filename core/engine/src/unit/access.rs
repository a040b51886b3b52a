//! What a unit may call.

use std::{sync::Arc, time::Duration};

use super::{Event, News, Unit, handlers::Work};
use crate::{
    Denial, Failure, Fields, Moment,
    policy::{NOT_ALLOWED, NOT_ALLOWED_CODE, Rights},
};

/// How often it is told that something was denied.
const TOLD: Duration = Duration::from_secs(1);

/// The rights of a unit as they were looked at last.
#[derive(Default)]
pub(super) struct Allowed {
    rights: Option<Arc<Rights>>,
    /// [`Load::rights_changes`](crate::Load::rights_changes) then.
    changes: u64,
    /// The number of the names that were allowed last, see [`LastNames`](crate::wire::LastNames).
    names: u64,
    /// Denials that were not told yet, and when one was told last.
    untold: u64,
    told: Option<Moment>,
}

impl<R> Unit<R> {
    /// Whether a message or request with the names of the one before, and of the same kind, is surely allowed.
    #[inline]
    pub(super) fn is_allowed_again(&self) -> bool {
        let allowed = &self.allowed;
        allowed.changes == self.load.rights_changes()
            && (allowed.rights.is_none() || allowed.names == self.last_names.serial())
    }

    /// Whether something for a handler is allowed.
    #[inline]
    pub(super) fn is_allowed(&mut self, message: &[u8], work: &Work) -> bool {
        if self.allowed.changes != self.load.rights_changes() {
            self.allowed.changes = self.load.rights_changes();
            self.allowed.rights = self.load.rights();
            self.allowed.names = 0;
        }
        match &self.allowed.rights {
            None => true,
            Some(rights) => {
                let (role, event) = work.layout.names(message);
                let may = rights.may_call(work.way.kind(), role, event);
                // Those of other frames than messages and requests have no number of their own.
                if may && work.layout.number != 0 {
                    self.allowed.names = work.layout.number;
                }
                may
            }
        }
    }

    /// Rejects something for a handler, and tells of that.
    #[cold]
    pub(super) fn deny(&mut self, message: &[u8], work: Work, now: Moment) {
        self.stats.denied += 1;
        self.allowed.untold += 1;
        if self.allowed.told.is_none_or(|told| now.since(told) >= TOLD) {
            self.allowed.told = Some(now);
            let (role, event) = work.layout.names(message);
            let count = std::mem::take(&mut self.allowed.untold);
            let denial = Denial { count, ..Denial::call(work.way.kind(), role, event) };
            self.events.push(Event::News(News::Denied(denial)));
        }
        let code = Some(NOT_ALLOWED_CODE.to_owned());
        let failure = Failure { code, ..Failure::unhandled() };
        let mut fields = Fields::new();
        // It is below the limit.
        let _ = fields.set_failure(&failure);
        self.reject_unhandled_with(work.way, NOT_ALLOWED, &fields);
    }
}
