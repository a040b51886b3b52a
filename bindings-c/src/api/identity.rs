//! Who is at the other end of a connection: what was shown, not what was said.

use std::{ffi::c_char, os::raw::c_void};

use engine::{Certificate, Identity};

use crate::border::{
    enter::enter,
    failure::{Failure, roletalk_status},
    handles::roletalk_unit,
    memory::copy_text,
    sized::sized,
    units,
    values::{roletalk_pair, roletalk_string},
};

/// A certificate that the other end has shown, and that TLS has verified, unless verification was switched off. Valid
/// during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_certificate {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// The subject as RFC 4514 writes it, such as `CN=billing,O=Example`; may be empty.
    pub subject: roletalk_string,
    /// Its subject alternative names, each with its type: `dns:a.example`, `uri:spiffe://prod/a`, `ip:10.0.0.1`,
    /// `email:a@example.org`.
    pub names: *const roletalk_string,
    /// How many names.
    pub name_count: usize,
    /// SHA-256 of the whole certificate, 64 lowercase hexadecimal digits.
    pub fingerprint: roletalk_string,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
}

/// Called with a certificate, on the caller's thread.
pub type roletalk_certificate_visitor =
    Option<unsafe extern "C" fn(user_data: *mut c_void, certificate: *const roletalk_certificate)>;

/// What the other end of a connection has shown. Valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_identity {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// The connection's number, as in roletalk_connection_stats; in roletalk_unit_describe_identity 0.
    pub connection: u64,
    /// Whether this peer has dialed it: 1 or 0.
    pub dialed: i32,
    /// The id of the preshared key that it has proved; empty when this peer asks for no proof.
    pub key: roletalk_string,
    /// The same without the version behind a `#`.
    pub key_name: roletalk_string,
    /// The name of its own key, when it has proved that its id belongs to that: `key-` and 40 hexadecimal digits; else empty.
    pub peer: roletalk_string,
    /// Its certificate; NULL when it has shown none.
    pub certificate: *const roletalk_certificate,
    /// What the program has said of it (roletalk_upgrade_allow): a JSON object, `{}` for nothing.
    pub claims: roletalk_string,
    /// Where the connection comes from or leads to, such as `192.0.2.1:51234`; empty when that is not known.
    pub address: roletalk_string,
    /// The headers of its upgrade that were to be kept (roletalk_peer_options.identity_headers), in lower case.
    pub headers: *const roletalk_pair,
    /// How many headers.
    pub header_count: usize,
}

/// Called with an identity, on the caller's thread.
pub type roletalk_identity_visitor =
    Option<unsafe extern "C" fn(user_data: *mut c_void, identity: *const roletalk_identity)>;

type Visit = unsafe extern "C" fn(*mut c_void, *const roletalk_identity);

sized!(roletalk_certificate roletalk_identity);

/// What the view of a certificate points to besides that.
pub(super) struct LentCertificate<'a> {
    certificate: &'a Certificate,
    names: Vec<roletalk_string>,
}

impl LentCertificate<'_> {
    pub(super) fn new(certificate: &Certificate) -> LentCertificate<'_> {
        let names = certificate.names.iter().map(|name| roletalk_string::lend(name)).collect();
        LentCertificate { certificate, names }
    }

    /// Valid as long as this.
    pub(super) fn view(&self) -> roletalk_certificate {
        roletalk_certificate {
            struct_size: size_of::<roletalk_certificate>(),
            subject: roletalk_string::lend(&self.certificate.subject),
            names: self.names.as_ptr(),
            name_count: self.names.len(),
            fingerprint: roletalk_string::lend(&self.certificate.fingerprint),
            expires: self.certificate.expires,
        }
    }
}

fn show(identity: &Identity, connection: u64, visitor: Visit, user_data: *mut c_void) {
    let lent = identity.certificate.as_deref().map(LentCertificate::new);
    let certificate = lent.as_ref().map(LentCertificate::view);
    let claims = identity.to_json()["claims"].to_string();
    let address = identity.address.map(|address| address.to_string()).unwrap_or_default();
    let pair = |(name, value): &(String, String)| roletalk_pair {
        key: roletalk_string::lend(name),
        value: roletalk_string::lend(value),
    };
    let headers: Vec<_> = identity.headers.iter().map(pair).collect();
    let view = roletalk_identity {
        struct_size: size_of::<roletalk_identity>(),
        connection,
        dialed: i32::from(identity.dialed),
        key: roletalk_string::lend(identity.key.as_deref().unwrap_or_default()),
        key_name: roletalk_string::lend(identity.key_name().unwrap_or_default()),
        peer: roletalk_string::lend(identity.peer.as_deref().unwrap_or_default()),
        certificate: certificate.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
        claims: roletalk_string::lend(&claims),
        address: roletalk_string::lend(&address),
        headers: headers.as_ptr(),
        header_count: headers.len(),
    };
    // SAFETY: function and argument were given together; the view points into local variables and what they
    // borrow, and no lock is held.
    unsafe { visitor(user_data, &view) };
}

/// Copies the unit's identity as JSON to `buffer`, without a terminating zero, and its length to `len`, which may be
/// NULL. This is what the unit has shown on the most recently opened connection. Its name, its tags and its id are only
/// what it says about itself. Unknown members are `null`:
///
///     {"key": "billing", "peer": null, "certificate": {"subject": "", "names": [], "fingerprint": "", "expires": 0}, "claims": {},
///      "address": "192.0.2.1:51234", "headers": [["x-team", "red"]], "dialed": false}
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_unit_identity(
    unit: roletalk_unit,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    enter(|| {
        let text = units::get(unit)?.identity().to_json().to_string();
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { copy_text(&text, buffer, capacity, len) }
    })
}

/// Calls `visitor` once, before this returns, with what roletalk_unit_identity says.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_unit_describe_identity(
    unit: roletalk_unit,
    visitor: roletalk_identity_visitor,
    user_data: *mut c_void,
) -> roletalk_status {
    enter(|| {
        let unit = units::get(unit)?;
        let visitor = visitor.ok_or_else(|| Failure::null("visitor"))?;
        show(&unit.identity(), 0, visitor, user_data);
        Ok(())
    })
}

/// Calls `visitor` for each connection of the unit, before this returns. What they have shown agrees in all but address,
/// headers and direction.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_unit_each_identity(
    unit: roletalk_unit,
    visitor: roletalk_identity_visitor,
    user_data: *mut c_void,
) -> roletalk_status {
    enter(|| {
        let unit = units::get(unit)?;
        let visitor = visitor.ok_or_else(|| Failure::null("visitor"))?;
        for (connection, identity) in unit.identities() {
            show(&identity, connection.0, visitor, user_data);
        }
        Ok(())
    })
}
