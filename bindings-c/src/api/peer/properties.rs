//! What a peer has: id, tags, keys, roles, destinations, middleware, units, counters.

use std::{ffi::c_char, os::raw::c_void, sync::Arc};

use crate::{
    api::{destination::object::DestinationObject, peer::object::get, role::RoleObject, unit},
    border::{
        enter::enter,
        failure::{Failure, roletalk_status},
        handles::{roletalk_destination, roletalk_peer, roletalk_role},
        memory::{check_out, copy_text, put},
        sized::{self, sized},
        table,
        values::roletalk_string,
    },
    callbacks::exchange::roletalk_incoming_handler,
};

/// Counters of a peer. Set `struct_size` before.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_peer_stats {
    /// sizeof(roletalk_peer_stats).
    pub struct_size: usize,
    /// Connected units.
    pub units: u64,
    /// Accepted connections whose handshake is under way.
    pub handshakes: u64,
    /// Bytes that wait to be written on all connections.
    pub queued: u64,
    /// Addresses that were connected again after a loss, or after failures.
    pub reconnects: u64,
    /// Addresses that units have told and that were not dialed (`acquaintance_networks` of roletalk_peer_options). One
    /// whose name resolves to such addresses counts for each attempt.
    pub addresses_ignored: u64,
}

sized!(roletalk_peer_stats);

/// Copies the peer's id, 32 hexadecimal digits, to `buffer`, without a zero at the end, and its length
/// to `len`, which may be NULL. With roletalk_peer_options.peer_key it is 61 characters: the name of that key, and 16
/// digits.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_id(
    peer: roletalk_peer,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { copy_text(&get(peer)?.peer.id(), buffer, capacity, len) })
}

/// Sets a tag. Units that connect from now on see it.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_set_tag(
    peer: roletalk_peer,
    key: roletalk_string,
    value: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let (key, value) = unsafe { (key.get("key")?, value.get("value")?) };
        get(peer)?.peer.set_tag(key, value);
        Ok(())
    })
}

/// Adds a preshared key, or replaces the one with this id. From the first one on, only peers that share
/// a key get in. Connections that are up stay.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when the id or the key is empty or longer than 1 024 bytes.
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_add_key(
    peer: roletalk_peer,
    id: roletalk_string,
    key: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let (id, key) = unsafe { (id.get("id")?, key.get("key")?) };
        Ok(get(peer)?.peer.add_preshared_key(id, key)?)
    })
}

/// Removes a preshared key. Connections that are up stay. Without any key everyone gets in.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when there is none with this id. Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_remove_key(
    peer: roletalk_peer,
    id: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let id = unsafe { id.get("id") }?;
        match get(peer)?.peer.remove_preshared_key(id) {
            true => Ok(()),
            false => Err(Failure::invalid("There is no preshared key with this id")),
        }
    })
}

/// The role of this name, added if it is new: offered at once, or, when `active` is 0, after
/// roletalk_role_enable. The same name gives the same handle, which belongs to the peer.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a name that is empty or longer than 65 535 bytes,
/// ROLETALK_STATUS_CLOSED. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_role(
    peer: roletalk_peer,
    name: roletalk_string,
    active: i32,
    role: *mut roletalk_role,
) -> roletalk_status {
    enter(|| {
        check_out(role, "role")?;
        // SAFETY: the contract of pointers in the header's introduction.
        let name = unsafe { name.get("name") }?;
        let object = get(peer)?;
        let made = match active {
            0 => object.peer.inactive_role(name)?,
            _ => object.peer.role(name)?,
        };
        let mut owned = object.owned()?;
        let handle = *owned.roles.entry(name.to_owned()).or_insert_with(|| {
            let id = table::insert(Arc::new(RoleObject {
                role: made,
                queue: object.queue.clone(),
                peer_layers: object.layers.clone(),
                layers: Arc::default(),
            }));
            roletalk_role { id }
        });
        // SAFETY: as above.
        unsafe { put(role, handle, "role") }
    })
}

/// The destination of this name, added if it is new. The same name gives the same handle, which belongs
/// to the peer.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a name that is empty or longer than 65 535 bytes,
/// ROLETALK_STATUS_CLOSED. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_destination(
    peer: roletalk_peer,
    role: roletalk_string,
    destination: *mut roletalk_destination,
) -> roletalk_status {
    enter(|| {
        check_out(destination, "destination")?;
        // SAFETY: the contract of pointers in the header's introduction.
        let role = unsafe { role.get("role") }?;
        let object = get(peer)?;
        let made = object.peer.destination(role)?;
        let mut owned = object.owned()?;
        let handle = *owned.destinations.entry(role.to_owned()).or_insert_with(|| {
            let (queue, runtime) = (object.queue.clone(), object.runtime.clone());
            let keep = object.keep.clone();
            // What is inherited is said with each call: a thread runs the callbacks of many handlers.
            let destination = DestinationObject::new(made.detached(), queue, keep, runtime);
            roletalk_destination { id: table::insert(Arc::new(destination)) }
        });
        // SAFETY: as above.
        unsafe { put(destination, handle, "destination") }
    })
}

/// Calls `visitor` for each connected unit, before this returns.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_peer_each_unit(
    peer: roletalk_peer,
    visitor: unit::roletalk_unit_visitor,
    user_data: *mut c_void,
) -> roletalk_status {
    enter(|| unit::visit(get(peer)?.peer.units(), visitor, user_data))
}

/// Adds middleware for all that any role handles; it comes before that of the roles. See
/// roletalk_role_layer.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_peer_layer(
    peer: roletalk_peer,
    layer: roletalk_incoming_handler,
) -> roletalk_status {
    let closure = layer.take();
    enter(move || {
        let object = get(peer)?;
        object.layers.add(closure.bind(&object.queue)?);
        Ok(())
    })
}

/// Counters. `stats->struct_size` must be set.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_get_stats(
    peer: roletalk_peer,
    stats: *mut roletalk_peer_stats,
) -> roletalk_status {
    enter(|| {
        let known = get(peer)?.peer.stats();
        let value = roletalk_peer_stats {
            struct_size: size_of::<roletalk_peer_stats>(),
            units: known.units.len() as u64,
            handshakes: known.handshakes as u64,
            queued: known.queued as u64,
            reconnects: known.reconnects,
            addresses_ignored: known.addresses_ignored,
        };
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { sized::write(stats, &value) }
    })
}
