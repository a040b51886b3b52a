//! Which handler something has, or why it has none.

use std::sync::Arc;

use crate::Kind;

/// A role with its handlers, as a host keeps it.
pub trait Serves {
    /// What is called.
    type Handler;

    /// Whether the role is offered now.
    fn is_active(&self) -> bool;

    /// The handler of an event.
    fn handler(&self, kind: Kind, event: &str) -> Option<Self::Handler>;
}

impl<T: Serves> Serves for &Arc<T> {
    type Handler = T::Handler;

    fn is_active(&self) -> bool {
        T::is_active(self)
    }

    fn handler(&self, kind: Kind, event: &str) -> Option<T::Handler> {
        T::handler(self, kind, event)
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

/// Finds the handler of something that was received for a role of this name; `role` is none when there is no
/// such role.
///
/// # Errors
/// The text to reject it with.
pub fn find<R: Serves>(
    name: &str,
    role: Option<R>,
    kind: Kind,
    event: &str,
) -> Result<(R, R::Handler), String> {
    let role = role.ok_or_else(|| NoHandler::NotRegistered.text(name))?;
    if !role.is_active() {
        return Err(NoHandler::Disabled.text(name));
    }
    match role.handler(kind, event) {
        Some(handler) => Ok((role, handler)),
        None => Err(NoHandler::NotHandled.text(event)),
    }
}
