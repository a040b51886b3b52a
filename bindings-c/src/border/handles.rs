//! What the program has in the place of objects: the numbers of the [table](super::table).

/// The local node. Made by roletalk_peer_new, closed by roletalk_peer_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_peer {
    /// Zero is none.
    pub id: u64,
}

/// An address that is listened on. Closed by roletalk_listener_close, and with its peer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_listener {
    /// Zero is none.
    pub id: u64,
}

/// A service that a peer offers. Belongs to its peer and is valid until that is closed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_role {
    /// Zero is none.
    pub id: u64,
}

/// A role as offered by units. Belongs to its peer and is valid until that is closed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_destination {
    /// Zero is none.
    pub id: u64,
}

/// A connected remote peer. Callbacks borrow it: keep it with roletalk_unit_clone, and free that with
/// roletalk_unit_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_unit {
    /// Zero is none.
    pub id: u64,
}

/// What a handler is to answer. Valid inside the handler; roletalk_context_defer makes one that is valid
/// until it is answered.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_context {
    /// Zero is none.
    pub id: u64,
}

/// The answer to a blocking call. Freed by roletalk_answer_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_answer {
    /// Zero is none.
    pub id: u64,
}

/// The answers to a survey. Closed by roletalk_survey_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_survey {
    /// Zero is none.
    pub id: u64,
}

/// The reading end of a stream. Closed by roletalk_readable_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_readable {
    /// Zero is none.
    pub id: u64,
}

/// The writing end of a stream. Closed by roletalk_writable_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_writable {
    /// Zero is none.
    pub id: u64,
}

/// Something under way that will call back. Freed by roletalk_operation_free, which does not end it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_operation {
    /// Zero is none.
    pub id: u64,
}

/// A function that chooses a unit. Made by roletalk_chooser_new, freed by roletalk_chooser_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_chooser {
    /// Zero is none.
    pub id: u64,
}

/// How requests are made again. Made by roletalk_retry_new, freed by roletalk_retry_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_retry {
    /// Zero is none.
    pub id: u64,
}

/// A request for an upgrade, which the program is to judge. Ended by roletalk_upgrade_allow, roletalk_upgrade_deny or
/// roletalk_upgrade_free, and when the time for the handshake is over.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_upgrade {
    /// Zero is none.
    pub id: u64,
}

impl roletalk_unit {
    pub(crate) const NONE: roletalk_unit = roletalk_unit { id: 0 };
}
