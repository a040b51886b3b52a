//! Certificates that change while a peer runs.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    api::peer::object::{ListenerObject, get},
    border::{
        enter::enter,
        failure::{Failure, roletalk_status},
        handles::{roletalk_listener, roletalk_peer},
        memory::put,
        table,
        values::roletalk_string,
    },
};

/// Milliseconds since 1970; 0 for none.
pub(crate) fn millis(time: Option<SystemTime>) -> u64 {
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Reads the files of certificates again that the peer listens and dials with (`tls_certificates_file` and so on
/// of roletalk_listen_options and roletalk_connect_options). New handshakes use them, connections that are up stay.
///
/// Errors: ROLETALK_STATUS_TLS when a file cannot be read, when key and certificate do not fit together, and when a
/// certificate is not valid now: then what was in force stays. All are tried; this is the first error. Any thread,
/// also inside callbacks; it waits for the files only.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_peer_reload_tls(peer: roletalk_peer) -> roletalk_status {
    enter(|| Ok(get(peer)?.peer.reload_tls()?))
}

/// Sets `expires_ms` to the earliest expiry of the TLS settings that the peer listens and dials with, in milliseconds
/// since 1970; 0 if that is not known. A chain expires with the certificate in it that expires first, a set of
/// authorities with the one that expires last.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_get_tls_expires(
    peer: roletalk_peer,
    expires_ms: *mut u64,
) -> roletalk_status {
    enter(|| {
        let expires = millis(get(peer)?.peer.tls_expires());
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(expires_ms, expires, "expires_ms") }
    })
}

/// Dials an address with new certificates from now on. `address` is the text that was passed to roletalk_peer_connect.
/// The other arguments are PEM; an empty one keeps the old value, but `certificates` and `key` belong together. Watched
/// files are loaded again when they next change.
///
/// Errors: ROLETALK_STATUS_TLS as for roletalk_peer_reload_tls, ROLETALK_STATUS_INVALID_ARGUMENT when the address is
/// not dialed. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_replace_tls(
    peer: roletalk_peer,
    address: roletalk_string,
    ca: roletalk_string,
    certificates: roletalk_string,
    key: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let (address, ca, certificates, key) = unsafe {
            (
                address.get("address")?,
                ca.get("ca")?,
                certificates.get("certificates")?,
                key.get("key")?,
            )
        };
        let Some(tls) = get(peer)?.peer.dialed_tls(address) else {
            return Err(Failure::invalid("The address is not dialed"));
        };
        let ca = Some(ca.as_bytes()).filter(|ca| !ca.is_empty());
        let identity = match certificates.is_empty() && key.is_empty() {
            true => None,
            false => Some((certificates.as_bytes(), key.as_bytes())),
        };
        Ok(tls.replace(ca, identity)?)
    })
}

/// Listens with another certificate chain from now on, leaf first, and its key; and with other client authorities,
/// unless `client_ca` is empty. All are PEM. New handshakes use them, connections that are up stay. Files that are
/// watched are taken again when they next change.
///
/// Errors: ROLETALK_STATUS_TLS as for roletalk_peer_reload_tls, ROLETALK_STATUS_INVALID_ARGUMENT for a listener
/// without TLS. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_listener_replace_tls(
    listener: roletalk_listener,
    certificates: roletalk_string,
    key: roletalk_string,
    client_ca: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let (certificates, key, client_ca) = unsafe {
            (certificates.get("certificates")?, key.get("key")?, client_ca.get("client_ca")?)
        };
        let listener = table::get::<ListenerObject>(listener.id)?;
        let Some(tls) = listener.0.tls() else {
            return Err(Failure::invalid("The listener has no TLS"));
        };
        let client_ca = Some(client_ca.as_bytes()).filter(|ca| !ca.is_empty());
        Ok(tls.replace(certificates.as_bytes(), key.as_bytes(), client_ca)?)
    })
}
