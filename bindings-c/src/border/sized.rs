//! Structs that begin with their size, in both directions.

use crate::border::{failure::Failure, memory::check_out};

/// A struct of the header that begins with `struct_size`.
///
/// # Safety
/// The type is `repr(C)`, its first field is a `usize`, and all bits zero is a valid value.
pub(crate) unsafe trait Sized: Copy {
    /// What the struct is called.
    const NAME: &'static str;
}

/// Reads what the other side knows of a struct; the rest is zero. `None` for NULL.
///
/// # Errors
/// `Status::InvalidArgument` when the
/// size is impossible, or when the program was compiled with a later header and uses a field that
/// is not known here.
///
/// # Safety
/// `from` is NULL or points to as many bytes as its `struct_size` says.
pub(crate) unsafe fn read<T: Sized>(from: *const T) -> Result<Option<T>, Failure> {
    if from.is_null() {
        return Ok(None);
    }
    if !from.is_aligned() {
        return Err(Failure::invalid(format!("the {} is not aligned", T::NAME)));
    }
    // SAFETY: not NULL, aligned, and the first field is the size.
    let size = unsafe { from.cast::<usize>().read() };
    check_size::<T>(size)?;
    let bytes = from.cast::<u8>();
    for at in size_of::<T>()..size {
        // SAFETY: within the size that the caller promises.
        if unsafe { bytes.add(at).read() } != 0 {
            let text = format!("this library does not know a field of the {} that is set", T::NAME);
            return Err(Failure::invalid(text));
        }
    }
    // SAFETY: all bits zero is a valid value, by the trait's contract.
    let mut value: T = unsafe { std::mem::zeroed() };
    let known = size.min(size_of::<T>());
    // SAFETY: both have `known` bytes, and one is a local variable.
    unsafe { std::ptr::from_mut(&mut value).cast::<u8>().copy_from_nonoverlapping(bytes, known) };
    Ok(Some(value))
}

/// Writes as much of a struct as the other side has room for, by the `struct_size` it has set, which
/// becomes the size that was written.
///
/// # Errors
/// `Status::InvalidArgument` for NULL
/// and for impossible sizes.
///
/// # Safety
/// `to` is NULL or points to as many bytes as its `struct_size` says.
pub(crate) unsafe fn write<T: Sized>(to: *mut T, value: &T) -> Result<(), Failure> {
    check_out(to, T::NAME)?;
    // SAFETY: not NULL, aligned, and the first field is the size.
    let size = unsafe { to.cast::<usize>().read() };
    check_size::<T>(size)?;
    let known = size.min(size_of::<T>());
    // SAFETY: the other side has room for `size` bytes, and `value` has as many as are copied.
    unsafe {
        let from = std::ptr::from_ref(value).cast::<u8>();
        to.cast::<u8>().copy_from_nonoverlapping(from, known);
        to.cast::<usize>().write(known);
    }
    Ok(())
}

fn check_size<T: Sized>(size: usize) -> Result<(), Failure> {
    // No struct will ever be larger than this.
    const LARGEST: usize = 64 << 10;
    // No version's struct ends within a pointer.
    if size < size_of::<usize>() || size > LARGEST || !size.is_multiple_of(align_of::<T>()) {
        let text = format!("the struct_size of the {} is {size}: set it to its sizeof", T::NAME);
        return Err(Failure::invalid(text));
    }
    Ok(())
}

/// Says that a struct of the header begins with its size.
macro_rules! sized {
    ($($name:ident)*) => {$(
        // SAFETY: the struct is `repr(C)`, begins with a `usize`, and consists of integers, floats,
        // raw pointers, structs of those, and optional function pointers.
        unsafe impl $crate::border::sized::Sized for $name {
            const NAME: &'static str = stringify!($name);
        }
    )*};
}
pub(crate) use sized;

/// A copy of the caller's, or all zero.
///
/// # Safety
/// As [`read`].
pub(crate) unsafe fn read_or_default<T: Sized>(from: *const T) -> Result<T, Failure> {
    // SAFETY: the caller's promise; all bits zero is a valid value by the trait's contract.
    Ok(unsafe { read(from) }?.unwrap_or_else(|| unsafe { std::mem::zeroed() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Known {
        struct_size: usize,
        a: u64,
        b: u64,
    }

    sized!(Known);

    #[test]
    fn older_and_newer_programs_are_understood() {
        let older = [size_of::<[u64; 2]>() as u64, 7];
        // SAFETY: as long as its first field says.
        let read_older = unsafe { read(older.as_ptr().cast::<Known>()) };
        assert_eq!(read_older.unwrap(), Some(Known { struct_size: 16, a: 7, b: 0 }));
        for (extra, understood) in [(0, true), (1, false)] {
            let newer = [32_u64, 7, 8, extra];
            // SAFETY: as long as its first field says.
            let read_newer = unsafe { read(newer.as_ptr().cast::<Known>()) };
            assert_eq!(read_newer.is_ok(), understood, "{extra}");
        }
        for size in [0, 7, 12, u64::MAX] {
            let wrong = [size, 7, 8];
            // SAFETY: nothing is read behind a wrong size.
            assert!(unsafe { read(wrong.as_ptr().cast::<Known>()) }.is_err(), "{size}");
        }
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { read::<Known>(std::ptr::null()) }.unwrap(), None);
    }

    #[test]
    fn no_more_is_written_than_there_is_room_for() {
        let mut room = [16_u64, 0, 99];
        let value = Known { struct_size: 24, a: 1, b: 2 };
        // SAFETY: as long as its first field says.
        unsafe { write(room.as_mut_ptr().cast(), &value) }.unwrap();
        assert_eq!(room, [16, 1, 99]);
    }
}
