//! Which handler something has, or why it has none.

use std::sync::Arc;

use crate::{Kind, hint, wire};

/// A role with its handlers, as a host keeps it.
pub trait Serves {
    /// What is called.
    type Handler;

    /// Whether the role is offered now.
    fn is_active(&self) -> bool;

    /// The handler of an event.
    fn handler(&self, kind: Kind, event: &str) -> Option<Self::Handler>;

    /// Names of events that have a handler of this kind, in any order and not more than `most`. Only asked for
    /// when an event has none.
    fn events(&self, kind: Kind, most: usize) -> Vec<String>;
}

impl<T: Serves> Serves for &Arc<T> {
    type Handler = T::Handler;

    fn is_active(&self) -> bool {
        T::is_active(self)
    }

    fn handler(&self, kind: Kind, event: &str) -> Option<T::Handler> {
        T::handler(self, kind, event)
    }

    fn events(&self, kind: Kind, most: usize) -> Vec<String> {
        T::events(self, kind, most)
    }
}

/// Why something has no handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHandler {
    /// The peer has no role of this name.
    NotRegistered,
    /// The role of this name is not offered now.
    Disabled,
    /// The role has no handler for an event of this name.
    NotHandled,
}

impl NoHandler {
    /// What a requester is told, with the name of the role or of the event.
    pub fn text(self, name: &str) -> String {
        match self {
            NoHandler::NotRegistered => format!("The role \"{name}\" is not registered"),
            NoHandler::Disabled => format!("The role \"{name}\" is disabled"),
            NoHandler::NotHandled => format!("The event \"{name}\" is not handled"),
        }
    }

    /// Whether a rejection says one of these.
    pub(crate) fn is_told_by(text: &str) -> bool {
        let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
        between("The event \"", "\" is not handled")
            || between("The role \"", "\" is not registered")
            || between("The role \"", "\" is disabled")
    }
}

/// What a requester is told when no handler was begun for its request: the reason, and for a name that nobody
/// handles those that there are. A text alone will do as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    reason: String,
    events: Vec<String>,
}

impl Refusal {
    /// The longest name of an event that is told, in bytes.
    const LONGEST: usize = 64;
    /// So many events of a role are looked at: whoever has more makes their names up, such as from ids, and a
    /// stranger must not have them all compared again and again.
    const LOOKED_AT: usize = 256;

    /// That of something that has no handler. `name` is the name of the role or of the event; `events` are those
    /// that the role has handlers for, of the kind that was asked for. They are told only of a role that is offered,
    /// without those that are long or have control characters, and of many the most similar ones.
    pub fn new(
        why: NoHandler,
        name: &str,
        events: impl IntoIterator<Item = impl Into<String>>,
    ) -> Refusal {
        let mut refusal = Refusal::from(why.text(name));
        if why == NoHandler::NotHandled {
            let events = events.into_iter().take(Self::LOOKED_AT).map(Into::into);
            // Of others a reader has little, and escaped they would be long.
            let fits =
                |event: &String| event.len() <= Self::LONGEST && !event.contains(char::is_control);
            refusal.events = events.filter(fits).collect();
            if refusal.events.len() > wire::MAX_KNOWN {
                let name = wire::cut(name, 2 * Self::LONGEST);
                refusal.events.sort_by_cached_key(|event| hint::difference(event, name));
                refusal.events.truncate(wire::MAX_KNOWN);
            }
            refusal.events.sort_unstable();
        }
        refusal
    }

    /// The text to reject with.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    pub(crate) fn events(&self) -> &[String] {
        &self.events
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal { reason, events: Vec::new() }
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Refusal {
        Refusal::from(reason.to_owned())
    }
}

/// Finds the handler of something that was received for a role of this name; `role` is none when there is no
/// such role.
///
/// # Errors
/// What to [refuse](crate::Unit::refuse) it with.
pub fn find<R: Serves>(
    name: &str,
    role: Option<R>,
    kind: Kind,
    event: &str,
) -> Result<(R, R::Handler), Refusal> {
    let role = role.ok_or_else(|| Refusal::from(NoHandler::NotRegistered.text(name)))?;
    if !role.is_active() {
        return Err(Refusal::from(NoHandler::Disabled.text(name)));
    }
    match role.handler(kind, event) {
        Some(handler) => Ok((role, handler)),
        None => Err(not_handled(&role, kind, event)),
    }
}

#[cold]
fn not_handled<R: Serves>(role: &R, kind: Kind, event: &str) -> Refusal {
    let events = match kind {
        // Its sender is told nothing.
        Kind::Message => Vec::new(),
        kind => role.events(kind, Refusal::LOOKED_AT),
    };
    Refusal::new(NoHandler::NotHandled, event, events)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A role `math` with these events.
    struct Math<'a>(&'a [String], bool);

    impl Serves for Math<'_> {
        type Handler = ();

        fn is_active(&self) -> bool {
            self.1
        }

        fn handler(&self, _: Kind, event: &str) -> Option<()> {
            self.0.iter().any(|known| known == event).then_some(())
        }

        fn events(&self, kind: Kind, most: usize) -> Vec<String> {
            assert_ne!(kind, Kind::Message, "nobody is told");
            self.0.iter().take(most).cloned().collect()
        }
    }

    fn told(events: &[String], active: bool, kind: Kind, event: &str) -> (String, Vec<String>) {
        let refusal = find("math", Some(Math(events, active)), kind, event).err().unwrap();
        (refusal.reason, refusal.events)
    }

    #[test]
    fn events_are_told_only_of_a_role_that_is_offered() {
        let events = ["mul", "add"].map(str::to_owned);
        let (reason, known) = told(&events, true, Kind::Request, "ad");
        assert_eq!(reason, "The event \"ad\" is not handled");
        assert_eq!(known, ["add", "mul"]);
        assert!(told(&events, true, Kind::Message, "ad").1.is_empty());
        let none: (_, Vec<String>) = ("The role \"math\" is disabled".to_owned(), Vec::new());
        assert_eq!(told(&events, false, Kind::Request, "ad"), none);
        let unknown = find("math", None::<Math<'_>>, Kind::Request, "ad").err().unwrap();
        assert_eq!(unknown, Refusal::from("The role \"math\" is not registered"));
        let disabled = Refusal::new(NoHandler::Disabled, "math", events);
        assert!(disabled.events().is_empty());
    }

    #[test]
    fn of_many_events_the_most_similar_are_told() {
        let mut events: Vec<String> = (0..100).map(|n| format!("number-{n}")).collect();
        events.push("add".to_owned());
        events.push("x".repeat(Refusal::LONGEST + 1));
        events.push("ad\n".to_owned());
        let (_, known) = told(&events, true, Kind::Request, "adt");
        assert_eq!(known.len(), wire::MAX_KNOWN);
        assert!(known.contains(&"add".to_owned()) && known.is_sorted());
        assert!(known.iter().all(|name| name.len() <= Refusal::LONGEST && !name.contains('\n')));
        // However many there are, and whatever was asked for.
        let ids: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
        let (_, known) = told(&ids, true, Kind::Readable, &"é".repeat(30_000));
        assert_eq!(known.len(), wire::MAX_KNOWN);
    }
}
