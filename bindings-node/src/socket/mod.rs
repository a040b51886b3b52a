//! Loop-native sockets: connections whose file descriptors this addon polls on Node's own loop, and the host
//! reads and writes, so that a batch of messages costs one call into JavaScript and no stream of Node's.
//!
//! Node does the upgrade. The descriptor is then duplicated, and Node's socket, which is not read any
//! more, stays as what JavaScript knows of the connection. It gets the connection back for its end,
//! or when something is wrong with it.

mod event_loop;
mod uv;

use std::{
    cell::Cell,
    ffi::c_int,
    net::TcpStream,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
    rc::Rc,
    sync::{Arc, Mutex},
};

use napi::{
    Env, JsValue,
    bindgen_prelude::{Function, Unknown},
    sys,
};
use roletalk_engine::ConnId;
use roletalk_host::{Host, lock};

use self::{
    event_loop::EventLoop,
    uv::{Handle, Kind, READABLE, Uv, WRITABLE},
};

/// How one connection's socket is polled. It stays on the thread of its loop.
pub(crate) struct Socket {
    id: u64,
    event_loop: Rc<EventLoop>,
    /// Who reads and writes it.
    host: Arc<Mutex<Host>>,
    conn: ConnId,
    /// The `uv_poll_t`; null when it is closed.
    poll: Cell<*mut Handle>,
    /// What it polls for.
    polled: Cell<c_int>,
    /// What was found by polling and is not handled yet.
    found: Cell<c_int>,
    /// How JavaScript is called; none when the socket is closed.
    calls: Cell<Option<Calls>>,
    calling: Cell<bool>,
    /// Whether something waits to be written.
    writes: Cell<bool>,
    paused: Cell<bool>,
}

/// A stream of its own for the descriptor of a TCP socket of Node's, which does not block. None when the system
/// has no more descriptors.
pub(crate) fn duplicate(fd: c_int) -> Option<TcpStream> {
    // SAFETY: JavaScript says that the descriptor is open, and does not close it during the call.
    let fd = unsafe { (fd >= 0).then(|| BorrowedFd::borrow_raw(fd)) }?;
    Some(TcpStream::from(fd.try_clone_to_owned().ok()?))
}

impl Socket {
    /// Polls the socket of a connection, which has to be closed later than this. `callback` is called when
    /// there is something to do: [`take_found`](Socket::take_found) tells what.
    ///
    /// None where that is not possible.
    pub(crate) fn new(
        env: &Env,
        stream: &TcpStream,
        host: &Arc<Mutex<Host>>,
        conn: ConnId,
        callback: &Function<'_, (), Unknown<'static>>,
    ) -> Option<Rc<Socket>> {
        let event_loop = EventLoop::of(env)?;
        let calls = Calls::new(env, callback)?;
        let Some(poll) = new_poll(&event_loop, stream.as_raw_fd()) else {
            calls.release(env.raw());
            return None;
        };
        let socket = Rc::new(Socket {
            id: event_loop.next_id(),
            event_loop,
            host: host.clone(),
            conn,
            poll: Cell::new(poll),
            polled: Cell::new(0),
            found: Cell::new(0),
            calls: Cell::new(Some(calls)),
            calling: Cell::new(false),
            writes: Cell::new(false),
            paused: Cell::new(false),
        });
        // SAFETY: the handle is initialised. The socket closes it before it is gone itself.
        unsafe { (socket.event_loop.uv.set_data)(poll, Rc::as_ptr(&socket).cast()) };
        socket.event_loop.add(&socket);
        socket.settle();
        Some(socket)
    }

    /// What was found since this was last called: whether it is readable, and whether it is writable.
    pub(crate) fn take_found(&self) -> (bool, bool) {
        let found = self.found.take();
        (found & READABLE != 0, found & WRITABLE != 0)
    }

    /// Whether it is to be polled for being writable.
    pub(crate) fn set_writes(&self, writes: bool) {
        self.writes.set(writes);
        self.settle();
    }

    /// Whether it is not to be polled for being readable.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.set(paused);
        self.settle();
    }

    /// Polls for what is wanted. To be called after what was found was handled: libuv stops polling
    /// when it finds that something is wrong.
    pub(crate) fn settle(&self) {
        let poll = self.poll.get();
        if poll.is_null() {
            return;
        }
        let wanted = if self.paused.get() { 0 } else { READABLE }
            | if self.writes.get() { WRITABLE } else { 0 };
        if self.polled.replace(wanted) == wanted {
            return;
        }
        let uv = self.event_loop.uv;
        // SAFETY: the handle is initialised and not closed.
        unsafe {
            match wanted {
                0 => (uv.poll_stop)(poll),
                _ => (uv.poll_start)(poll, wanted, on_poll),
            }
        };
    }

    /// Calls JavaScript, when the guard has read something for it.
    fn wake(&self) {
        let has_stood_in = lock(&self.host).has_stood_in(self.conn);
        if has_stood_in {
            self.found.set(self.found.get() | READABLE);
            self.call();
        }
    }

    /// Polls no more, and lets go of everything.
    pub(crate) fn close(&self) {
        let poll = self.poll.replace(ptr::null_mut());
        if poll.is_null() {
            return;
        }
        self.event_loop.remove(self.id, poll);
        self.forget_calls();
    }

    /// JavaScript is called no more: at once, or when the call that is under way returns.
    fn forget_calls(&self) {
        if !self.calling.get()
            && let Some(calls) = self.calls.take()
        {
            calls.release(self.event_loop.env);
        }
    }

    /// Calls JavaScript. Nothing of this addon's is borrowed meanwhile: the function calls it.
    fn call(&self) {
        let Some(calls) = self.calls.get() else { return };
        self.calling.set(true);
        calls.call(self.event_loop.env);
        self.calling.set(false);
        if self.poll.get().is_null() {
            self.forget_calls();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.close();
    }
}

/// A handle that polls this descriptor, once it is started.
fn new_poll(event_loop: &EventLoop, fd: RawFd) -> Option<*mut Handle> {
    let uv = event_loop.uv;
    let poll = uv.alloc(Kind::Poll);
    if poll.is_null() {
        return None;
    }
    // SAFETY: the handle has the size that libuv asks for and is not in use yet.
    if unsafe { (uv.poll_init)(event_loop.raw, poll, fd) } != 0 {
        // SAFETY: it was not initialised.
        unsafe { uv::free(poll) };
        return None;
    }
    Some(poll)
}

/// What JavaScript is called with: a function, and the asynchronous context that it was given in.
#[derive(Clone, Copy)]
struct Calls {
    callback: sys::napi_ref,
    context: sys::napi_async_context,
}

impl Calls {
    fn new(env: &Env, function: &Function<'_, (), Unknown<'static>>) -> Option<Calls> {
        let env = env.raw();
        let (mut callback, mut context) = (ptr::null_mut(), ptr::null_mut());
        let mut name = ptr::null_mut();
        const NAME: &str = "roletalk";
        // SAFETY: the environment is that of the call under way, and the function is a value in it.
        // Whatever fails leaves a null pointer.
        unsafe {
            sys::napi_create_string_utf8(
                env,
                NAME.as_ptr().cast(),
                NAME.len() as isize,
                &raw mut name,
            );
            sys::napi_async_init(env, ptr::null_mut(), name, &raw mut context);
            sys::napi_create_reference(env, function.raw(), 1, &raw mut callback);
        }
        (!callback.is_null() && !context.is_null()).then_some(Calls { callback, context })
    }

    fn call(self, env: sys::napi_env) {
        // SAFETY: this is the thread of the environment, which has not ended: then the socket would
        // be closed. All values live as long as the scope, which is closed in the end.
        unsafe {
            let mut scope = ptr::null_mut();
            if sys::napi_open_handle_scope(env, &raw mut scope) != sys::Status::napi_ok {
                return;
            }
            let (mut function, mut this) = (ptr::null_mut(), ptr::null_mut());
            sys::napi_get_reference_value(env, self.callback, &raw mut function);
            sys::napi_get_global(env, &raw mut this);
            let (context, result) = (self.context, ptr::null_mut());
            let called =
                sys::napi_make_callback(env, context, this, function, 0, ptr::null(), result);
            if called == sys::Status::napi_pending_exception {
                let mut error = ptr::null_mut();
                let caught = sys::napi_get_and_clear_last_exception(env, &raw mut error);
                // There is none to be had when the thread is being terminated.
                if caught == sys::Status::napi_ok {
                    sys::napi_fatal_exception(env, error);
                }
            }
            sys::napi_close_handle_scope(env, scope);
        }
    }

    fn release(self, env: sys::napi_env) {
        // SAFETY: both are from `new`, released once, and not in use. The environment has not ended: its
        // cleanup hook closes all sockets.
        unsafe {
            sys::napi_delete_reference(env, self.callback);
            sys::napi_async_destroy(env, self.context);
        }
    }
}

unsafe extern "C" fn on_poll(handle: *mut Handle, status: c_int, found: c_int) {
    // SAFETY: the handle points to its socket, which closes it before it is gone, and libuv does not
    // call this for handles that are closed. The socket is kept: JavaScript may release it.
    let socket = unsafe {
        let Some(uv) = Uv::get() else { return };
        let socket = (uv.get_data)(handle).cast::<Socket>();
        Rc::increment_strong_count(socket);
        Rc::from_raw(socket)
    };
    let found = match status {
        0 => found,
        _ => {
            // Reading tells what is wrong. libuv polls no more.
            socket.polled.set(0);
            READABLE | WRITABLE
        }
    };
    socket.found.set(socket.found.get() | found);
    socket.call();
}
