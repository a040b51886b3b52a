//! Where a peer listens, and connections that others have accepted for it.

use std::ffi::c_char;

use engine::Remote;

use crate::{
    api::peer::{
        object::{ListenerObject, get},
        options::roletalk_listen_options,
    },
    border::{
        enter::enter,
        failure::{Failure, roletalk_status},
        handles::{roletalk_listener, roletalk_peer},
        memory::{check_optional, copy_text, put_optional},
        sized::read_or_default,
        table,
        values::roletalk_string,
    },
    runtime::wait::Limit,
};

/// Listens on an address, such as `127.0.0.1:9000`; port 0 takes a free one. `options` may be NULL.
/// `listener` may be NULL: it belongs to the peer in any case.
///
/// Errors: ROLETALK_STATUS_IO when the address cannot be listened on, ROLETALK_STATUS_TLS,
/// ROLETALK_STATUS_CLOSED. Any thread; for an address that has a name, in
/// callbacks as every call that waits.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_listen(
    peer: roletalk_peer,
    address: roletalk_string,
    options: *const roletalk_listen_options,
    listener: *mut roletalk_listener,
) -> roletalk_status {
    enter(|| {
        let object = get(peer)?;
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let address = unsafe { address.get("address") }?;
        // SAFETY: as above.
        let options = unsafe { read_or_default(options)?.get() }?;
        check_optional(listener, "listener")?;
        let listening = object.wait(Limit::Never, object.peer.listen_with(address, options))?;
        let made = listening.map_err(|error| Failure::from(error).about(address))?;
        let mut owned = object.owned()?;
        let handle = owned.add_listener(made);
        // SAFETY: as above.
        unsafe { put_optional(listener, "listener", || handle) }
    })
}

/// Copies the address that a peer on the same machine can connect to, such as `ws://127.0.0.1:9000`,
/// to `buffer`, without a zero at the end, and its length to `len`, which may be NULL.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_listener_url(
    listener: roletalk_listener,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    enter(|| {
        let listener = table::get::<ListenerObject>(listener.id)?;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { copy_text(listener.0.url(), buffer, capacity, len) }
    })
}

/// Stops listening, and ends the handle. Connections that were accepted stay.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_listener_close(listener: roletalk_listener) -> roletalk_status {
    enter(|| {
        table::remove::<ListenerObject>(listener.id)?.0.close();
        Ok(())
    })
}

/// Serves a TCP connection that the program's own server has accepted. Its first bytes are an HTTP
/// upgrade, or, when `upgraded` is not 0, the upgrade was done already: then it is for that server to look at the
/// `Origin` and to authenticate. The library owns `fd` from here on, unless this fails with
/// ROLETALK_STATUS_INVALID_ARGUMENT or ROLETALK_STATUS_INVALID_HANDLE.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when `fd` is not a connected stream socket,
/// ROLETALK_STATUS_IO. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_peer_accept_fd(
    peer: roletalk_peer,
    fd: i32,
    upgraded: i32,
) -> roletalk_status {
    use std::os::fd::FromRawFd;

    enter(|| {
        let object = get(peer)?;
        if !is_stream(fd) {
            return Err(Failure::invalid("The file descriptor is not a connected stream socket"));
        }
        // SAFETY: it is open, and the caller gives it away.
        let stream = unsafe { std::net::TcpStream::from_raw_fd(fd) };
        stream.set_nonblocking(true).map_err(Failure::io)?;
        let _ = stream.set_nodelay(true);
        let stream = {
            let _runtime = object.runtime.enter();
            tokio::net::TcpStream::from_std(stream).map_err(Failure::io)?
        };
        let peer = object.peer.clone();
        // None for sockets of other kinds.
        let remote = Remote::at(stream.peer_addr().ok());
        object.runtime.spawn(async move {
            let _ = match upgraded {
                0 => peer.accept_from(stream, remote).await,
                _ => peer.accept_upgraded_from(stream, remote).await,
            };
        });
        Ok(())
    })
}

/// Whether it is a stream socket that does not listen.
fn is_stream(fd: i32) -> bool {
    let option = |name| {
        let mut value = 0_i32;
        let mut len = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the descriptor may be anything; `value` and `len` are local variables of the right
        // size.
        let asked = unsafe {
            let value = std::ptr::from_mut(&mut value).cast();
            libc::getsockopt(fd, libc::SOL_SOCKET, name, value, &mut len)
        };
        (asked == 0).then_some(value)
    };
    option(libc::SO_TYPE) == Some(libc::SOCK_STREAM) && option(libc::SO_ACCEPTCONN) == Some(0)
}
