//! The event loop of one environment: what its sockets share, and how they end with it.

use std::{
    cell::{Cell, RefCell},
    ffi::c_void,
    ptr,
    rc::{Rc, Weak},
};

use napi::{Env, sys};
use roletalk_host::Guard;
use rustc_hash::FxHashMap;

use super::{
    Socket,
    uv::{self, Handle, Kind, Loop, Uv},
};

/// Sockets on the loop of one environment: of the main thread, or of a worker thread. It stays on
/// that thread.
///
/// An environment may end at any time, with the process or with the worker thread. Node then calls
/// `end`, and waits until the close callbacks of all handles were called.
pub(super) struct EventLoop {
    pub(super) env: sys::napi_env,
    pub(super) uv: &'static Uv,
    pub(super) raw: *mut Loop,
    sockets: RefCell<FxHashMap<u64, Weak<Socket>>>,
    next_id: Cell<u64>,
    guard: Guard,
    /// How the guard wakes the loop: a `uv_async_t`, closed when the environment ends.
    wakeup: *mut Handle,
    /// Handles whose close callback was not called yet.
    handles: Cell<usize>,
    /// Once the environment ends, what to remove when all handles are closed.
    hook: Cell<Option<sys::napi_async_cleanup_hook_handle>>,
}

thread_local! {
    /// The loops of this thread's environments, which themselves hold them: there is one for each time
    /// that the addon was loaded.
    static LOOPS: RefCell<Vec<Weak<EventLoop>>> = const { RefCell::new(Vec::new()) };
}

impl EventLoop {
    /// The loop of an environment. None where that has no libuv, or has ended.
    pub(super) fn of(env: &Env) -> Option<Rc<EventLoop>> {
        let known = LOOPS.with_borrow(|loops| {
            loops.iter().filter_map(Weak::upgrade).find(|known| known.env == env.raw())
        });
        if let Some(known) = known {
            return known.hook.get().is_none().then_some(known);
        }
        let new = EventLoop::new(env.raw())?;
        LOOPS.with_borrow_mut(|loops| {
            loops.retain(|known| known.strong_count() > 0);
            loops.push(Rc::downgrade(&new));
        });
        Some(new)
    }

    fn new(env: sys::napi_env) -> Option<Rc<EventLoop>> {
        let uv = Uv::get()?;
        let mut raw = ptr::null_mut();
        // SAFETY: the environment is that of the caller, and so of this thread.
        let status = unsafe { sys::napi_get_uv_event_loop(env, &raw mut raw) };
        if status != sys::Status::napi_ok || raw.is_null() {
            return None;
        }
        let handle = uv.alloc(Kind::Async);
        if handle.is_null() {
            return None;
        }
        let wakeup = Wakeup { handle, uv };
        let new = Rc::new(EventLoop {
            env,
            uv,
            raw: raw.cast::<Loop>(),
            sockets: RefCell::default(),
            next_id: Cell::new(0),
            guard: Guard::new(move || wakeup.send()),
            wakeup: handle,
            handles: Cell::new(0),
            hook: Cell::new(None),
        });
        // SAFETY: the handle has the size that libuv asks for and is not in use yet.
        if unsafe { (uv.async_init)(new.raw, handle, on_wakeup) } != 0 {
            // SAFETY: it was not initialised.
            unsafe { uv::free(handle) };
            return None;
        }
        new.handles.set(1);
        // SAFETY: the handle is initialised. It points to the loop, which lives until its close
        // callback was called: the hook holds it until then.
        unsafe {
            (uv.set_data)(handle, Rc::as_ptr(&new).cast());
            (uv.unref)(handle);
            let hook = Rc::into_raw(new.clone()).cast_mut().cast();
            sys::napi_add_async_cleanup_hook(env, Some(end), hook, ptr::null_mut());
        }
        Some(new)
    }

    /// A number for a socket.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    pub(super) fn add(&self, socket: &Rc<Socket>) {
        self.handles.set(self.handles.get() + 1);
        self.sockets.borrow_mut().insert(socket.id, Rc::downgrade(socket));
        // Without a thread, a blocked loop is what it is without this package, until one can be had.
        let _ = self.guard.watch(&socket.host);
    }

    /// Closes the handle of a socket.
    pub(super) fn remove(&self, id: u64, handle: *mut Handle) {
        self.sockets.borrow_mut().remove(&id);
        self.close(handle);
    }

    fn close(&self, handle: *mut Handle) {
        // SAFETY: the handle is initialised and not closed yet. The loop lives until all close
        // callbacks were called, see `end`.
        unsafe {
            (self.uv.set_data)(handle, ptr::from_ref(self).cast());
            (self.uv.close)(handle, on_close);
        }
    }

    fn sockets(&self) -> Vec<Rc<Socket>> {
        self.sockets.borrow().values().filter_map(Weak::upgrade).collect()
    }
}

/// What the guard wakes the loop with.
struct Wakeup {
    handle: *mut Handle,
    uv: &'static Uv,
}

// SAFETY: `uv_async_send` may be called by any thread, as long as the handle is not closed, and the
// guard's thread has ended before it is.
unsafe impl Send for Wakeup {}
// SAFETY: likewise.
unsafe impl Sync for Wakeup {}

impl Wakeup {
    fn send(&self) {
        // SAFETY: see above. It fails only on handles of another kind.
        unsafe { (self.uv.async_send)(self.handle) };
    }
}

/// The guard has read something.
unsafe extern "C" fn on_wakeup(handle: *mut Handle) {
    // SAFETY: the handle points to its loop. libuv calls this only before the handle is closed, and
    // the loop lives for longer than that; it is kept, as JavaScript may end everything.
    let event_loop = unsafe {
        let Some(uv) = Uv::get() else { return };
        let event_loop = (uv.get_data)(handle).cast::<EventLoop>();
        Rc::increment_strong_count(event_loop);
        Rc::from_raw(event_loop)
    };
    for socket in event_loop.sockets() {
        socket.wake();
    }
}

unsafe extern "C" fn on_close(handle: *mut Handle) {
    // SAFETY: the handle points to the loop that has closed it, which lives until the last one is
    // closed and its environment ends. No reference to it is left behind then but the hook's, which
    // is given up here, once: there are no handles any more, and no new ones come.
    unsafe {
        let Some(uv) = Uv::get() else { return };
        let event_loop = (uv.get_data)(handle).cast::<EventLoop>();
        uv::free(handle);
        let left = (*event_loop).handles.get() - 1;
        (*event_loop).handles.set(left);
        if let (0, Some(hook)) = (left, (*event_loop).hook.get()) {
            drop(Rc::from_raw(event_loop));
            sys::napi_remove_async_cleanup_hook(hook);
        }
    }
}

/// The environment ends.
unsafe extern "C" fn end(hook: sys::napi_async_cleanup_hook_handle, event_loop: *mut c_void) {
    // SAFETY: this is the reference that the hook holds; `on_close` drops it.
    let event_loop = unsafe { &*event_loop.cast::<EventLoop>() };
    event_loop.hook.set(Some(hook));
    // Waits for its thread, which may be about to wake the loop.
    event_loop.guard.end();
    for socket in event_loop.sockets() {
        socket.close();
    }
    event_loop.close(event_loop.wakeup);
}
