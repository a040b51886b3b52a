//! What a unit may call.

use std::{hash::Hasher, sync::Arc, time::Duration};

use rustc_hash::FxHasher;

use super::{Event, News, Unit, handlers::Work};
use crate::{
    Denial, Failure, Fields, Kind, Moment,
    policy::{NOT_ALLOWED, NOT_ALLOWED_CODE, Rights},
};

/// How often it is told that something was denied.
const TOLD: Duration = Duration::from_secs(1);

/// So many names that were allowed are remembered, a power of two, and none that are longer than this together.
const REMEMBERED: usize = 32;
const LONGEST: usize = 256;

/// What was allowed lately: however many rules there are, that is not looked up again.
#[derive(Default)]
struct Lately(Vec<Option<Names>>);

struct Names {
    kind: Kind,
    role_len: usize,
    /// Role and event.
    bytes: Box<[u8]>,
}

impl Lately {
    /// The place of names; none for long ones. A unit that chooses names for one place only keeps itself from being
    /// remembered.
    #[inline]
    fn place(kind: Kind, role: &[u8], event: &[u8]) -> Option<usize> {
        if role.len() + event.len() > LONGEST {
            return None;
        }
        let mut hasher = FxHasher::default();
        hasher.write(role);
        hasher.write(event);
        hasher.write_u8(kind as u8);
        Some(hasher.finish() as usize % REMEMBERED)
    }

    #[inline]
    fn has(&self, place: usize, kind: Kind, role: &[u8], event: &[u8]) -> bool {
        self.0.get(place).and_then(Option::as_ref).is_some_and(|names| {
            let (known_role, known_event) = names.bytes.split_at(names.role_len);
            names.kind == kind && known_role == role && known_event == event
        })
    }

    fn remember(&mut self, place: usize, kind: Kind, role: &[u8], event: &[u8]) {
        if self.0.is_empty() {
            self.0.resize_with(REMEMBERED, || None);
        }
        let bytes = [role, event].concat().into();
        self.0[place] = Some(Names { kind, role_len: role.len(), bytes });
    }
}

/// The rights of a unit as they were looked at last.
#[derive(Default)]
pub(super) struct Allowed {
    rights: Option<Arc<Rights>>,
    /// [`Load::rights_changes`](crate::Load::rights_changes) then.
    changes: u64,
    /// The number of the names that were allowed last, see [`LastNames`](crate::wire::LastNames).
    names: u64,
    lately: Lately,
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
            self.allowed.lately = Lately::default();
        }
        self.allowed.rights.is_none() || self.has_right(message, work)
    }

    fn has_right(&mut self, message: &[u8], work: &Work) -> bool {
        let Allowed { rights: Some(rights), lately, names, .. } = &mut self.allowed else {
            return true;
        };
        let (kind, (role, event)) = (work.way.kind(), work.layout.name_bytes(message));
        let place = Lately::place(kind, role, event);
        if !place.is_some_and(|place| lately.has(place, kind, role, event)) {
            let (role_text, event_text) = work.layout.names(message);
            if !rights.may_call(kind, role_text, event_text) {
                return false;
            }
            if let Some(place) = place {
                lately.remember(place, kind, role, event);
            }
        }
        // Those of other frames than messages and requests have no number of their own.
        if work.layout.number != 0 {
            *names = work.layout.number;
        }
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_names_of_the_same_kind_are_remembered() {
        let mut lately = Lately::default();
        let place =
            |kind, role: &str, event: &str| Lately::place(kind, role.as_bytes(), event.as_bytes());
        let at = place(Kind::Request, "ab", "c").unwrap();
        assert!(!lately.has(at, Kind::Request, b"ab", b"c"));
        lately.remember(at, Kind::Request, b"ab", b"c");
        assert!(lately.has(at, Kind::Request, b"ab", b"c"));
        for (kind, role, event) in [
            (Kind::Message, "ab", "c"),
            (Kind::Request, "a", "bc"),
            (Kind::Request, "abc", ""),
            (Kind::Request, "", "abc"),
            (Kind::Request, "ab", "d"),
        ] {
            // Whatever their places.
            assert!(
                !lately.has(at, kind, role.as_bytes(), event.as_bytes()),
                "{kind:?} {role} {event}"
            );
        }
        lately.remember(at, Kind::Message, b"x", b"y");
        assert!(!lately.has(at, Kind::Request, b"ab", b"c"), "one for each place");
        assert_eq!(place(Kind::Request, &"r".repeat(LONGEST), "e"), None);
        assert_eq!(
            place(Kind::Request, &"r".repeat(LONGEST), "").map(|at| at < REMEMBERED),
            Some(true)
        );
    }
}
