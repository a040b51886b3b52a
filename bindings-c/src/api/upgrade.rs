//! Whoever asks for an upgrade, until the program has judged it.

use std::{ffi::c_char, os::raw::c_void, sync::Arc};

use engine::{Denied, parse_claims};

use crate::{
    api::identity::{LentCertificate, roletalk_certificate_visitor},
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::roletalk_upgrade,
        memory::copy_text,
        table,
        values::roletalk_string,
    },
    callbacks::judge::Upgrade,
};

/// The HTTP status of upgrades that are refused without another one.
const FORBIDDEN: i32 = 403;

fn get(upgrade: roletalk_upgrade) -> Result<Arc<Upgrade>, Failure> {
    table::get(upgrade.id)
}

/// Copies the path that is asked for, without the query, to `buffer`, without a zero at the end, and its length to
/// `len`, which may be NULL.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_upgrade_path(
    upgrade: roletalk_upgrade,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { copy_text(&get(upgrade)?.request.path, buffer, capacity, len) })
}

/// Copies the first header of this name, in which upper and lower case are the same, as roletalk_upgrade_path does the
/// path. Headers may be secrets.
///
/// Errors: ROLETALK_STATUS_END when there is none that is text; ROLETALK_STATUS_TOO_LARGE. Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_upgrade_header(
    upgrade: roletalk_upgrade,
    name: roletalk_string,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    enter(|| {
        let upgrade = get(upgrade)?;
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let name = unsafe { name.get("name") }?;
        let none = || Failure::new(Status::End, format!("There is no header `{name}`"));
        let value = upgrade.request.header(name).ok_or_else(none)?;
        // SAFETY: as above.
        unsafe { copy_text(value, buffer, capacity, len) }
    })
}

/// Copies the token of the header `Authorization: Bearer`, as roletalk_upgrade_path does the path.
///
/// Errors: ROLETALK_STATUS_END when there is none; ROLETALK_STATUS_TOO_LARGE. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_upgrade_bearer(
    upgrade: roletalk_upgrade,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    enter(|| {
        let upgrade = get(upgrade)?;
        let none = || Failure::new(Status::End, "There is no header `Authorization: Bearer`");
        let token = upgrade.request.bearer().ok_or_else(none)?;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { copy_text(token, buffer, capacity, len) }
    })
}

/// Copies the address that the connection comes from, such as `192.0.2.1:51234`, as roletalk_upgrade_path does the
/// path; empty when it is not known.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_upgrade_address(
    upgrade: roletalk_upgrade,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    enter(|| {
        let address = get(upgrade)?.request.address;
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { copy_text(&address, buffer, capacity, len) }
    })
}

/// Calls `visitor` once, before this returns, with the certificate that was shown, which TLS has verified.
///
/// Errors: ROLETALK_STATUS_END when none was shown. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_upgrade_certificate(
    upgrade: roletalk_upgrade,
    visitor: roletalk_certificate_visitor,
    user_data: *mut c_void,
) -> roletalk_status {
    enter(|| {
        let upgrade = get(upgrade)?;
        let visitor = visitor.ok_or_else(|| Failure::null("visitor"))?;
        let none = || Failure::new(Status::End, "No certificate was shown");
        let lent = LentCertificate::new(upgrade.request.certificate.as_ref().ok_or_else(none)?);
        // SAFETY: function and argument were given together; the view points into what lives here, and no lock is
        // held.
        unsafe { visitor(user_data, &lent.view()) };
        Ok(())
    })
}

/// Accepts the upgrade. `claims`, a JSON object of at most 8 KiB, becomes part of the identity
/// (roletalk_unit_identity). Its member `sub` is the subject, which is the same on all connections of a unit. NULL: no
/// claims. Ends the handle.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for invalid claims: the handle stays valid.
/// ROLETALK_STATUS_INVALID_HANDLE also when it was judged already, and when its time is over. Any thread, also inside
/// callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_upgrade_allow(
    upgrade: roletalk_upgrade,
    claims: roletalk_string,
) -> roletalk_status {
    enter(|| {
        get(upgrade)?;
        // SAFETY: the contract of pointers in the header's introduction.
        let claims = match unsafe { claims.get("claims") }? {
            "" if claims.data.is_null() => engine::Claims::new(),
            text => parse_claims(text)?,
        };
        Upgrade::judge(upgrade, Some(Ok(claims)))
    })
}

/// Refuses it with an HTTP status from 400 to 599, such as 401; 0 stands for 403. `reason` is for this side's events and
/// log: the other side is not told. Ends the handle.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for another status: the handle is as before.
/// ROLETALK_STATUS_INVALID_HANDLE also when it was judged already, and when its time is over. Any thread, also inside
/// callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_upgrade_deny(
    upgrade: roletalk_upgrade,
    status: i32,
    reason: roletalk_string,
) -> roletalk_status {
    enter(|| {
        get(upgrade)?;
        // SAFETY: the contract of pointers in the header's introduction.
        let reason = unsafe { reason.get("reason") }?.to_owned();
        let status = match status {
            0 => FORBIDDEN,
            400..=599 => status,
            other => {
                let text =
                    format!("{other} is no HTTP status that refuses: use one from 400 to 599");
                return Err(Failure::invalid(text));
            }
        };
        Upgrade::judge(upgrade, Some(Err(Denied { status: status as u16, reason })))
    })
}

/// Ends the handle. An upgrade that was not judged is refused with 403.
///
/// Errors: ROLETALK_STATUS_INVALID_HANDLE also when it was judged already, and when its time is over. Any thread, also
/// inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_upgrade_free(upgrade: roletalk_upgrade) -> roletalk_status {
    enter(|| Upgrade::judge(upgrade, None))
}
