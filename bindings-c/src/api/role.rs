//! Services that a peer offers.

use std::sync::Arc;

use engine::OnCancel;

use crate::{
    border::{
        enter::enter,
        failure::roletalk_status,
        handles::roletalk_role,
        memory::put,
        sized::{read_or_default, sized},
        table,
        values::roletalk_string,
    },
    callbacks::{
        exchange::{Exchange, Handler, Layers, kind_from, roletalk_incoming_handler},
        item::Callbacks,
    },
};

pub(crate) struct RoleObject {
    pub(crate) role: engine::Role,
    pub(crate) queue: Arc<Callbacks>,
    pub(crate) peer_layers: Arc<Layers>,
    pub(crate) layers: Arc<Layers>,
}

/// Sets the handler of one kind of communication for one event, in the place of the one before. `kind` is
/// ROLETALK_KIND_MESSAGE, ROLETALK_KIND_REQUEST, ROLETALK_KIND_READABLE or ROLETALK_KIND_WRITABLE;
/// `event` may be empty. `handler.drop` is called when the handler is replaced or the peer closed, or
/// when this fails.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_role_handle(
    role: roletalk_role,
    kind: i32,
    event: roletalk_string,
    handler: roletalk_incoming_handler,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    unsafe { roletalk_role_handle_with(role, kind, event, std::ptr::null(), handler) }
}

/// How a handler is to be treated. All zero but the size: as roletalk_role_handle does.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_handler_options {
    /// sizeof(roletalk_handler_options).
    pub struct_size: usize,
    /// Not 0: it is never canceled, and neither are requests whose parent it is. For what is to be done to its end,
    /// whether or not the requester still waits.
    pub detached: i32,
}

sized!(roletalk_handler_options);

/// As roletalk_role_handle, with options, which may be NULL.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_role_handle_with(
    role: roletalk_role,
    kind: i32,
    event: roletalk_string,
    options: *const roletalk_handler_options,
    handler: roletalk_incoming_handler,
) -> roletalk_status {
    let closure = handler.take();
    enter(move || {
        let role = table::get::<RoleObject>(role.id)?;
        // SAFETY: the contract of pointers in the header's introduction.
        let (event, options) = unsafe { (event.get("event")?, read_or_default(options)?) };
        let kind = kind_from(kind)?;
        let handler = Arc::new(Handler {
            closure: closure.bind(&role.queue)?,
            queue: role.queue.clone(),
            layers: [role.peer_layers.clone(), role.layers.clone()],
        });
        let on_cancel = match options.detached {
            0 => OnCancel::Tell,
            _ => OnCancel::Ignore,
        };
        role.role.on_cancel(on_cancel).on_deferred(kind, event, move |context, deferred| {
            Exchange::come_in(context, deferred, &handler);
        });
        Ok(())
    })
}

/// Adds middleware for all that this role handles, behind that of the peer (roletalk_peer_layer) and that
/// added before. See roletalk_incoming_handler, roletalk_context_next, roletalk_context_set_data,
/// roletalk_context_on_outcome. `layer.drop` is called when the peer is closed, or when this fails.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_role_layer(
    role: roletalk_role,
    layer: roletalk_incoming_handler,
) -> roletalk_status {
    let closure = layer.take();
    enter(move || {
        let role = table::get::<RoleObject>(role.id)?;
        role.layers.add(closure.bind(&role.queue)?);
        Ok(())
    })
}

/// Offers the role; units are told.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_role_enable(role: roletalk_role) -> roletalk_status {
    enter(|| {
        table::get::<RoleObject>(role.id)?.role.enable();
        Ok(())
    })
}

/// Offers the role no longer: requests are rejected, messages dropped, units are told. What is running
/// goes on.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_role_disable(role: roletalk_role) -> roletalk_status {
    enter(|| {
        table::get::<RoleObject>(role.id)?.role.disable();
        Ok(())
    })
}

/// Whether the role is offered: 1 or 0.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_role_is_active(
    role: roletalk_role,
    active: *mut i32,
) -> roletalk_status {
    enter(|| {
        let role = table::get::<RoleObject>(role.id)?;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(active, i32::from(role.role.is_active()), "active") }
    })
}
