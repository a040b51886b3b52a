//! libuv, as the running executable has it. Node exports it, but not every runtime with a Node-API
//! does, so that the functions are looked up while running instead of by the linker.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    sync::OnceLock,
};

/// A `uv_loop_t`.
#[repr(C)]
pub(super) struct Loop {
    _private: [u8; 0],
}

/// A `uv_handle_t` of any kind.
#[repr(C)]
pub(super) struct Handle {
    _private: [u8; 0],
}

pub(super) type PollCallback = unsafe extern "C" fn(*mut Handle, c_int, c_int);
pub(super) type AsyncCallback = unsafe extern "C" fn(*mut Handle);
pub(super) type CloseCallback = unsafe extern "C" fn(*mut Handle);

/// `UV_READABLE`.
pub(super) const READABLE: c_int = 1;
/// `UV_WRITABLE`.
pub(super) const WRITABLE: c_int = 2;

/// Members of `uv_handle_type`.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Kind {
    Async = 1,
    Poll = 8,
}

/// The functions. All but `async_send` are for the thread of the loop only.
pub(super) struct Uv {
    handle_size: unsafe extern "C" fn(c_int) -> usize,
    pub(super) poll_init: unsafe extern "C" fn(*mut Loop, *mut Handle, c_int) -> c_int,
    pub(super) poll_start: unsafe extern "C" fn(*mut Handle, c_int, PollCallback) -> c_int,
    pub(super) poll_stop: unsafe extern "C" fn(*mut Handle) -> c_int,
    pub(super) async_init: unsafe extern "C" fn(*mut Loop, *mut Handle, AsyncCallback) -> c_int,
    pub(super) async_send: unsafe extern "C" fn(*mut Handle) -> c_int,
    pub(super) unref: unsafe extern "C" fn(*mut Handle),
    pub(super) close: unsafe extern "C" fn(*mut Handle, CloseCallback),
    pub(super) set_data: unsafe extern "C" fn(*mut Handle, *const c_void),
    pub(super) get_data: unsafe extern "C" fn(*const Handle) -> *const c_void,
}

impl Uv {
    /// None where the executable has no libuv.
    pub(super) fn get() -> Option<&'static Uv> {
        static UV: OnceLock<Option<Uv>> = OnceLock::new();
        UV.get_or_init(Uv::find).as_ref()
    }

    #[allow(clippy::missing_transmute_annotations, reason = "the types are those of the fields")]
    fn find() -> Option<Uv> {
        /// The address of a function, as whatever type it is needed.
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the types of the fields are those of libuv's header, unchanged since its
                // version 1.19, and addresses of functions are as large as function pointers.
                unsafe { std::mem::transmute::<*mut c_void, _>(symbol($name)?) }
            };
        }
        Some(Uv {
            handle_size: function!(c"uv_handle_size"),
            poll_init: function!(c"uv_poll_init"),
            poll_start: function!(c"uv_poll_start"),
            poll_stop: function!(c"uv_poll_stop"),
            async_init: function!(c"uv_async_init"),
            async_send: function!(c"uv_async_send"),
            unref: function!(c"uv_unref"),
            close: function!(c"uv_close"),
            set_data: function!(c"uv_handle_set_data"),
            get_data: function!(c"uv_handle_get_data"),
        })
    }

    /// Memory for a handle, all zeros; [`free`] gives it back. Null when there is none.
    pub(super) fn alloc(&self, kind: Kind) -> *mut Handle {
        // SAFETY: the function has no preconditions; no size of a handle overflows.
        unsafe { libc::calloc(1, (self.handle_size)(kind as c_int)).cast() }
    }
}

/// Frees a handle.
///
/// # Safety
/// It is from [`Uv::alloc`], and either was never initialised or its close callback was called.
pub(super) unsafe fn free(handle: *mut Handle) {
    // SAFETY: see above.
    unsafe { libc::free(handle.cast()) }
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is a string that ends with a zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr().cast::<c_char>()) };
    (!found.is_null()).then_some(found)
}
