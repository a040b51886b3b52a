//! Another static library made by rustc, for a program that links two of them. It allocates, unwinds and
//! starts a thread, so that it uses what both bring along.

use std::{ffi::c_int, panic, thread};

/// The sum of the numbers below `count`; -1 if there are none.
#[unsafe(no_mangle)]
pub extern "C" fn other_sum(count: c_int) -> c_int {
    let add = move || {
        let numbers: Vec<c_int> = (0..count).collect();
        if numbers.is_empty() {
            // Unwinds without a word on stderr.
            panic::resume_unwind(Box::new(()));
        }
        numbers.iter().sum()
    };
    thread::spawn(add).join().unwrap_or(-1)
}
