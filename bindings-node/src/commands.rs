//! The commands in the memory that is shared with JavaScript.

use std::time::Duration;

use roletalk_engine::{DataType, Fields, Moves, Order, Outgoing, wire::Payload};

use crate::{events::NONE, names::Routes, protocol::numbers};

numbers! {
    const LAYOUT = "" {
        /// Words in front of the commands: how many there are, and how many bytes of payload.
        COMMAND_HEADER: usize = 2,
        /// Words of one command.
        COMMAND_WORDS: usize = 8,
    }
}

numbers! {
    /// What a command asks for, in the lowest byte of its first word; see [`Asked`].
    enum Command: u8 {
        /// In place of a time limit, 1 more than the number of the destination, see [`Asked::Send`].
        Send = 1,
        Request = 2,
        Respond = 3,
        Reject = 4,
        Abandon = 5,
        Written = 6,
        ReleaseUnit = 7,
        /// A request whose time limit is in microseconds.
        RequestWithin = 9,
        Forget = 10,
    }
}

/// One command, as JavaScript wrote it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    words: &'a [u32],
    payload: &'a [u8],
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked<'a> {
    /// Send a message; the slot, when there is one, is told of the outcome.
    Send {
        unit: u32,
        slot: u32,
        outgoing: Outgoing<'a>,
        /// The destination that chooses another unit, should this one be gone; none when no other one will do.
        destination: Option<u32>,
    },
    Request {
        unit: u32,
        slot: u32,
        outgoing: Outgoing<'a>,
        timeout: Option<Duration>,
    },
    Respond {
        responder: u32,
        generation: u32,
        payload: Payload<'a>,
        fields: Option<&'a Fields>,
    },
    Reject {
        responder: u32,
        generation: u32,
        reason: &'a str,
        fields: Option<&'a Fields>,
    },
    /// The handler has ended, and nobody waits for its answer any more.
    Forget {
        responder: u32,
        generation: u32,
    },
    /// Nobody waits for the answer of this slot any more.
    Abandon {
        slot: u32,
    },
    /// All that was taken for this connection was written at this time: milliseconds of the peer's
    /// clock, modulo 2^32.
    Written {
        conn: u32,
        millis: u32,
    },
    /// JavaScript has forgotten the unit.
    ReleaseUnit {
        unit: u32,
    },
}

/// The commands of a batch, in order.
pub(crate) fn parse<'a>(words: &'a [u32], payload: &'a [u8]) -> impl Iterator<Item = Record<'a>> {
    let count = words.first().copied().unwrap_or(0) as usize;
    let records = words.get(COMMAND_HEADER..).unwrap_or(&[]).chunks_exact(COMMAND_WORDS);
    records.take(count).map(move |words| Record { words, payload })
}

impl<'a> Record<'a> {
    /// What is asked for, with these fields. None when the words make no sense: JavaScript writes them, and it does not
    /// do that.
    pub(crate) fn asked(self, routes: &'a Routes, fields: Option<&'a Fields>) -> Option<Asked<'a>> {
        let &[first, target, second, slot, at, len, timeout, lens] = self.words else {
            return None;
        };
        let bytes = self.payload.get(at as usize..)?.get(..len as usize)?;
        let kind = DataType::from_byte((first >> 8) as u8);
        let outgoing = || -> Option<Outgoing<'a>> {
            let (role, event, bytes) = match second {
                NONE => {
                    let (role, rest) = bytes.split_at_checked((lens >> 16) as usize)?;
                    let (event, bytes) = rest.split_at_checked((lens & 0xffff) as usize)?;
                    (std::str::from_utf8(role).ok()?, std::str::from_utf8(event).ok()?, bytes)
                }
                route => {
                    let (role, event) = routes.get(route)?;
                    (role, event, bytes)
                }
            };
            Some(Outgoing {
                role,
                event,
                payload: Payload { kind, bytes },
                order: Order::Kept,
                fields,
                bulkhead: None,
                moves: Moves::WithinUnit,
            })
        };
        Some(match Command::try_from(first & 0xff).ok()? {
            Command::Send => Asked::Send {
                unit: target,
                slot,
                // Whoever is called back is told that it was not sent.
                outgoing: Outgoing {
                    moves: match (slot == NONE, timeout > 0) {
                        (true, true) => Moves::ToAnyUnit,
                        (true, false) => Moves::WithinUnit,
                        (false, _) => Moves::Nowhere,
                    },
                    ..outgoing()?
                },
                destination: timeout.checked_sub(1),
            },
            Command::Request => {
                let timeout = (timeout > 0).then(|| Duration::from_millis(timeout.into()));
                Asked::Request { unit: target, slot, outgoing: outgoing()?, timeout }
            }
            Command::RequestWithin => {
                let timeout = Some(Duration::from_micros(timeout.into()));
                Asked::Request { unit: target, slot, outgoing: outgoing()?, timeout }
            }
            Command::Respond => {
                let payload = Payload { kind, bytes };
                Asked::Respond { responder: target, generation: second, payload, fields }
            }
            Command::Reject => {
                let reason = std::str::from_utf8(bytes).ok()?;
                Asked::Reject { responder: target, generation: second, reason, fields }
            }
            Command::Forget => Asked::Forget { responder: target, generation: second },
            Command::Abandon => Asked::Abandon { slot: target },
            Command::Written => Asked::Written { conn: target, millis: second },
            Command::ReleaseUnit => Asked::ReleaseUnit { unit: target },
        })
    }
}
