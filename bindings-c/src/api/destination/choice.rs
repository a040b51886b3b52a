//! Which unit gets what is sent.

use std::sync::Arc;

use crate::{
    api::{
        balance::{Given, roletalk_balance},
        destination::object::{DestinationObject, get},
    },
    border::{enter::enter, failure::roletalk_status, handles::roletalk_destination, table},
};

/// How a unit is chosen from now on, for all who use this destination; NULL: as the peer says
/// (roletalk_peer_options.balance). What is sent with a balance of its own (roletalk_send_options.balance) has that.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for an unknown `by`, and for tags that are not usable. Any thread, also
/// inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_set_balance(
    destination: roletalk_destination,
    balance: *const roletalk_balance,
) -> roletalk_status {
    enter(|| {
        let object = get(destination)?;
        // SAFETY: the contract of pointers in the header's introduction.
        let given = unsafe { Given::read(balance, &object.queue) }?;
        let changed = DestinationObject {
            destination: match given {
                None => object.plain.clone(),
                Some(given) => object.plain.balance(given.balance),
            },
            plain: object.plain.clone(),
            queue: object.queue.clone(),
            keep: object.keep.clone(),
            runtime: object.runtime.clone(),
        };
        // What is under way goes on with the one before.
        table::replace(destination.id, Arc::new(changed)).map(drop)
    })
}
