//! How a unit is chosen.

use std::{sync::Arc, time::Duration};

use engine::{Balance, Ejection};

use crate::{
    border::{
        enter::enter,
        failure::{Failure, roletalk_status},
        handles::roletalk_chooser,
        memory::{check_out, elements, put},
        sized::{self, sized},
        table,
        values::roletalk_pair,
    },
    callbacks::{
        chooser::{Chooser, Held, roletalk_choose_handler},
        item::Callbacks,
    },
};

/// One unit after the other, but instead of one another that is drawn by lot where that is clearly better: has
/// fewer requests to answer, or is to answer in less than half of the time.
pub const ROLETALK_BALANCE_LEAST_LOADED: i32 = 0;
/// One unit after the other.
pub const ROLETALK_BALANCE_ROUND_ROBIN: i32 = 1;

/// How a unit is chosen among those that serve a role. All zero but the size: by load.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_balance {
    /// sizeof(roletalk_balance).
    pub struct_size: usize,
    /// ROLETALK_BALANCE_LEAST_LOADED or ROLETALK_BALANCE_ROUND_ROBIN.
    pub by: i32,
    /// Tags: only among units that have all of them, such as those in the same zone, as long as one of these can be
    /// asked; among all others otherwise.
    pub prefer: *const roletalk_pair,
    /// How many tags.
    pub prefer_count: usize,
    /// A function that chooses, in the place of `by`; zero for none.
    pub chooser: roletalk_chooser,
    /// When a unit that keeps failing is left out for a while; NULL: never.
    pub eject: *const roletalk_ejection,
}

/// When a unit that keeps failing is left out for a while. Never more than half of those that serve a role are. It is
/// asked again, once, when its time is over: if that fails, too, it is left out for twice as long, otherwise it is as
/// good as any. All zero but the size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_ejection {
    /// sizeof(roletalk_ejection).
    pub struct_size: usize,
    /// So many requests in a row that fail; 0 stands for 5. A request fails when it is not answered within its time.
    pub failures: u32,
    /// Not 0: rejections are failures, too: by handlers, for want of a handler, or because the unit is overloaded.
    /// Otherwise they are not, since a handler may reject what is wrong with the request.
    pub rejections: i32,
    /// Milliseconds that the unit is left out at first. 0 stands for 5 000.
    pub time_ms: u64,
    /// Milliseconds that it is left out at most. 0 stands for 60 000, or for `time_ms` if that is longer.
    pub most_ms: u64,
}

impl roletalk_ejection {
    fn get(&self) -> Ejection {
        let mut ejection = Ejection::default();
        if self.failures != 0 {
            ejection.failures = self.failures;
        }
        ejection.rejections = self.rejections != 0;
        if self.time_ms != 0 {
            ejection.time = Duration::from_millis(self.time_ms);
        }
        ejection.most = match self.most_ms {
            0 => ejection.most.max(ejection.time),
            millis => Duration::from_millis(millis),
        };
        ejection
    }
}

sized!(roletalk_balance roletalk_ejection);

/// What a balance of the program's is read into.
pub(super) struct Given {
    pub(super) balance: Balance,
    /// What the balance calls.
    pub(super) chooser: Option<Arc<Held>>,
}

impl Given {
    /// For something of the peer with this queue. `None` for NULL.
    ///
    /// # Errors
    /// `Status::InvalidArgument` for an unknown way, and for tags that are not usable; `Status::InvalidHandle`.
    ///
    /// # Safety
    /// `balance` is NULL or as the header demands.
    pub(super) unsafe fn read(
        balance: *const roletalk_balance,
        queue: &Arc<Callbacks>,
    ) -> Result<Option<Given>, Failure> {
        // SAFETY: the caller's promise, here and below.
        let Some(given) = unsafe { sized::read(balance) }? else { return Ok(None) };
        let mut balance = match given.by {
            ROLETALK_BALANCE_LEAST_LOADED => Balance::least_loaded(),
            ROLETALK_BALANCE_ROUND_ROBIN => Balance::round_robin(),
            other => return Err(Failure::invalid(format!("there is no balance {other}"))),
        };
        let chooser = match given.chooser.id {
            0 => None,
            id => Some(table::get::<Chooser>(id)?.hold(queue)),
        };
        if let Some(chooser) = chooser.clone() {
            balance = Balance::try_custom(move |candidates| chooser.choose(candidates));
        }
        // SAFETY: as above.
        for tag in unsafe { elements(given.prefer, given.prefer_count, "prefer") }? {
            // SAFETY: as above.
            let (key, value) =
                unsafe { (tag.key.get("prefer.key")?, tag.value.get("prefer.value")?) };
            balance = balance.prefer(key, value);
        }
        // SAFETY: as above.
        if let Some(ejection) = unsafe { sized::read(given.eject) }? {
            balance = balance.eject(ejection.get());
        }
        Ok(Some(Given { balance, chooser }))
    }
}

/// Makes a chooser of a function, for roletalk_balance.chooser. The caller frees it with roletalk_chooser_free. It may
/// be used with several peers.
///
/// `handler.drop` is called once, when the chooser was freed and nothing uses it any more: the peers that have it are
/// closed, destinations have another balance, and what was sent with it has its outcome. Then it is called by
/// roletalk_chooser_free, or where the callbacks of the last peer run that has used it. It is called at once when this
/// fails.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_chooser_new(
    handler: roletalk_choose_handler,
    chooser: *mut roletalk_chooser,
) -> roletalk_status {
    let made = Chooser::new(handler);
    enter(move || {
        check_out(chooser, "chooser")?;
        let id = table::insert(Arc::new(made?));
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(chooser, roletalk_chooser { id }, "chooser") }
    })
}

/// Frees a handle. What was given the chooser goes on using it.
///
/// Any thread, also inside callbacks, its own included.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_chooser_free(chooser: roletalk_chooser) -> roletalk_status {
    enter(|| table::remove::<Chooser>(chooser.id).map(drop))
}
