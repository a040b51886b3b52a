//! Who may call and serve what.

use engine::Policy;

use crate::{
    api::peer::object::get,
    border::{
        enter::enter,
        failure::{Failure, roletalk_status},
        handles::roletalk_peer,
        values::roletalk_string,
    },
    runtime::wait::{Limit, check_may_wait},
};

/// The policy that a text is; none for NULL. An empty text is no policy: what was read from an empty file must not
/// allow everything.
///
/// # Errors
/// `Status::InvalidArgument`.
///
/// # Safety
/// As for [`roletalk_string::get`].
pub(super) unsafe fn read(policy: roletalk_string) -> Result<Option<Policy>, Failure> {
    // SAFETY: the caller's promise.
    match unsafe { policy.get("policy") }? {
        "" if policy.data.is_null() => Ok(None),
        text => Ok(Some(Policy::parse(text)?)),
    }
}

/// Sets who may call and serve what from now on, including connected units: a policy as JSON (docs/POLICY.md). NULL: no
/// policy, everyone may do everything. Stops watching a policy file.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a text that is no policy, an empty one included:
/// roletalk_last_error says where and what is wrong; the policy before stays in force. Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_set_policy(
    peer: roletalk_peer,
    policy: roletalk_string,
) -> roletalk_status {
    enter(|| {
        let object = get(peer)?;
        // SAFETY: the contract of pointers in the header's introduction.
        object.peer.set_policy(unsafe { read(policy) }?);
        Ok(())
    })
}

/// Takes the policy from a file, and again within a second after each of its changes. A file that cannot be read or has
/// a fault changes nothing: ROLETALK_EVENT_POLICY_FAILED tells why, once for each change of the file;
/// ROLETALK_EVENT_POLICY_LOADED tells that a new one is in force. Ends with roletalk_peer_set_policy, with another file,
/// and with the peer.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when there is no usable policy in the file now, ROLETALK_STATUS_CLOSED:
/// nothing has changed. Any thread; in callbacks as every call that waits.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_watch_policy(
    peer: roletalk_peer,
    path: roletalk_string,
) -> roletalk_status {
    enter(|| {
        let object = get(peer)?;
        // SAFETY: the contract of pointers in the header's introduction.
        let path = unsafe { path.get("path") }?;
        check_may_wait(Limit::Never)?;
        Ok(object.wait(Limit::Never, object.peer.watch_policy(path))??)
    })
}

/// Checks the text of a policy. No peer is needed.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT: roletalk_last_error says where and what is wrong. Any thread, also
/// inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_policy_check(policy: roletalk_string) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let text = unsafe { policy.get("policy") }?;
        Policy::parse(text)?;
        Ok(())
    })
}
