//! Handles are numbers, not pointers: the table knows which objects they stand for. A handle that was
//! closed, or never was one, is therefore an error and nothing worse.
//!
//! A number is made of the place in the table, how often that place was used before, and the epoch
//! of the [process](super::process).

use std::{
    any::Any,
    cell::Cell,
    ops::Range,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::border::{
    failure::{Failure, Status},
    process,
};

type Object = Arc<dyn Any + Send + Sync>;

/// Threads work on different shards, mostly.
const SHARDS: usize = 16;
/// How often a place is used. The bit above says that the number is not that of a place.
const GENERATIONS: u32 = 1 << 23;
const SPECIAL: u64 = 1 << 55;

#[derive(Default)]
struct Shard {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

struct Slot {
    generation: u32,
    object: Option<Object>,
}

type Table = [RwLock<Shard>; SHARDS];

static TABLE: AtomicPtr<Table> = AtomicPtr::new(std::ptr::null_mut());

fn table() -> &'static Table {
    let known = TABLE.load(Ordering::Acquire);
    let table = match known.is_null() {
        false => known,
        true => {
            let new = Box::into_raw(Box::<Table>::default());
            match TABLE.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => new,
                Err(other) => {
                    // SAFETY: `new` was made above and given to nobody.
                    drop(unsafe { Box::from_raw(new) });
                    other
                }
            }
        }
    };
    // SAFETY: what was stored there came from a `Box` and is never freed.
    unsafe { &*table }
}

/// Begins with an empty table. The old one is left as it is: threads that do not exist any more may
/// hold its locks.
pub(crate) fn renew() {
    TABLE.store(std::ptr::null_mut(), Ordering::Release);
}

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The shard that this thread puts new objects into.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.with(|shard| {
        if shard.get() == usize::MAX {
            shard.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        shard.get()
    })
}

/// The number of a place: `place` counts within the shard.
fn number(generation: u32, shard: usize, place: u32) -> u64 {
    let place = u64::from(place) * SHARDS as u64 + shard as u64;
    (u64::from(process::epoch()) << 56) | (u64::from(generation) << 32) | place
}

/// Numbers that never come again and are in no table: taken many at a time, since threads would
/// contend for each.
#[derive(Default)]
pub(crate) struct Specials(Range<u64>);

impl Specials {
    pub(crate) fn next(&mut self) -> u64 {
        const BLOCK: u64 = 1024;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = self.0.next().unwrap_or_else(|| {
            let first = NEXT.fetch_add(BLOCK, Ordering::Relaxed);
            self.0 = first + 1..first + BLOCK;
            first
        });
        (u64::from(process::epoch()) << 56) | SPECIAL | (next % SPECIAL)
    }
}

/// Whether the number is of [`Specials`].
pub(crate) fn is_special(number: u64) -> bool {
    number & SPECIAL != 0
}

struct Place {
    generation: u32,
    shard: usize,
    place: usize,
}

fn parse(number: u64) -> Result<Place, Failure> {
    if number == 0 {
        return Err(Failure::new(Status::InvalidHandle, "The handle is zero"));
    }
    if (number >> 56) as u8 != process::epoch() {
        return Err(process::forked());
    }
    let at = (number & 0xffff_ffff) as usize;
    Ok(Place {
        // With the bit of special numbers, which no slot has.
        generation: (number >> 32) as u32 & 0x00ff_ffff,
        shard: at % SHARDS,
        place: at / SHARDS,
    })
}

pub(crate) fn invalid() -> Failure {
    Failure::new(
        Status::InvalidHandle,
        "The handle was closed or freed, is of another kind, or was never given out",
    )
}

/// Puts an object into the table.
pub(crate) fn insert<T: Any + Send + Sync>(object: Arc<T>) -> u64 {
    let shard_at = own_shard();
    let mut shard = table()[shard_at].write().unwrap_or_else(PoisonError::into_inner);
    let place = match shard.free.pop() {
        Some(place) => place,
        None => {
            shard.slots.push(Slot { generation: 1, object: None });
            (shard.slots.len() - 1) as u32
        }
    };
    let slot = &mut shard.slots[place as usize];
    slot.object = Some(object);
    number(slot.generation, shard_at, place)
}

/// The object of a handle.
///
/// # Errors
/// [`Status::InvalidHandle`] when there is none, or it is of another type;
/// `Status::Forked` when it is of the process that this one was forked from.
pub(crate) fn get<T: Any + Send + Sync>(handle: u64) -> Result<Arc<T>, Failure> {
    let Place { generation, shard, place } = parse(handle)?;
    let shard = table()[shard].read().unwrap_or_else(PoisonError::into_inner);
    let slot = shard.slots.get(place).filter(|slot| slot.generation == generation);
    let object = slot.and_then(|slot| slot.object.clone()).ok_or_else(invalid)?;
    drop(shard);
    object.downcast().map_err(|_| invalid())
}

/// Takes the object of a handle out of the table: of several that try, one succeeds.
///
/// # Errors
/// As [`get`].
pub(crate) fn remove<T: Any + Send + Sync>(handle: u64) -> Result<Arc<T>, Failure> {
    let Place { generation, shard, place } = parse(handle)?;
    let mut shard = table()[shard].write().unwrap_or_else(PoisonError::into_inner);
    let slot = shard.slots.get_mut(place).filter(|slot| slot.generation == generation);
    let slot = slot.ok_or_else(invalid)?;
    let object = slot.object.take_if(|object| (**object).is::<T>()).ok_or_else(invalid)?;
    slot.generation += 1;
    // A place is given up when its generations are used up, rather than that a number comes back.
    if slot.generation < GENERATIONS {
        shard.free.push(place as u32);
    }
    drop(shard);
    object.downcast().map_err(|_| invalid())
}

/// Puts another object in the place of that of a handle, which is given back. `change` makes it of that; it is called
/// under a lock, and so that no other change is lost.
///
/// # Errors
/// As [`get`].
pub(crate) fn update<T: Any + Send + Sync>(
    handle: u64,
    change: impl FnOnce(&T) -> T,
) -> Result<Arc<T>, Failure> {
    let Place { generation, shard, place } = parse(handle)?;
    let mut shard = table()[shard].write().unwrap_or_else(PoisonError::into_inner);
    let slot = shard.slots.get_mut(place).filter(|slot| slot.generation == generation);
    let object = slot.and_then(|slot| slot.object.as_mut()).ok_or_else(invalid)?;
    let changed = change((**object).downcast_ref().ok_or_else(invalid)?);
    let before = std::mem::replace(object, Arc::new(changed));
    drop(shard);
    before.downcast().map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_good_until_it_is_removed() {
        let handle = insert(Arc::new(7_u32));
        assert_eq!(*get::<u32>(handle).unwrap(), 7);
        assert_eq!(get::<u64>(handle).unwrap_err().status(), Status::InvalidHandle);
        assert_eq!(remove::<u64>(handle).unwrap_err().status(), Status::InvalidHandle);
        assert_eq!(*remove::<u32>(handle).unwrap(), 7);
        assert_eq!(remove::<u32>(handle).unwrap_err().status(), Status::InvalidHandle);
        assert_eq!(get::<u32>(handle).unwrap_err().status(), Status::InvalidHandle);
        assert_eq!(update(handle, |_: &u32| 9).unwrap_err().status(), Status::InvalidHandle);
        // The place is used again, the number is not.
        let next = insert(Arc::new(8_u32));
        assert_ne!(next, handle);
        assert!(get::<u32>(handle).is_err());
        assert_eq!(update(next, |_: &u64| 9).unwrap_err().status(), Status::InvalidHandle);
        assert_eq!(*update(next, |before: &u32| before + 1).unwrap(), 8);
        assert_eq!(*remove::<u32>(next).unwrap(), 9);
    }

    #[test]
    fn numbers_that_nobody_gave_out_are_errors() {
        for number in [0, 1, u64::MAX >> 8, Specials::default().next(), number(3, 15, 1_000_000)] {
            assert_eq!(
                get::<u32>(number).unwrap_err().status(),
                Status::InvalidHandle,
                "{number:x}"
            );
        }
    }
}
