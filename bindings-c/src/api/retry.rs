//! Requests that may be handled more than once.

use std::{sync::Arc, time::Duration};

use engine::{Hedge, Retry};

use crate::border::{
    enter::enter,
    failure::{Failure, roletalk_status},
    handles::roletalk_retry,
    memory::{check_out, put},
    sized::{self, read_or_default, sized},
    table,
};

/// For roletalk_retry_options.budget: no further requests but those that are saved up at first.
pub const ROLETALK_RETRY_NO_BUDGET: f64 = -1.0;

/// How requests that may be handled more than once are retried. All zero but the size: three attempts, a backoff of
/// 25 ms, a budget of 0.1, and no hedging.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_retry_options {
    /// sizeof(roletalk_retry_options).
    pub struct_size: usize,
    /// The most attempts, hedges included; 0 stands for 3. 1: no retry, for example for one request to a destination
    /// with a retry.
    pub attempts: u32,
    /// Milliseconds before the second attempt; 0 stands for 25. They double with each further attempt, and up to half
    /// of them is taken off at random. A longer time that the other side asks for (roletalk_failure.retry_after_ms)
    /// is kept to.
    pub backoff_ms: u64,
    /// The longest backoff in milliseconds; 0 stands for 1 000. Never less than `backoff_ms`.
    pub longest_ms: u64,
    /// Further attempts for each request, from 0 to 1; 0 stands for 0.1, ROLETALK_RETRY_NO_BUDGET for none. Unused
    /// attempts are saved up to ten, and a new retry starts with ten.
    pub budget: f64,
    /// Milliseconds without an answer after which a second attempt is made at another unit. The first answer counts,
    /// and the other attempt is canceled. 0: no hedging by time.
    pub hedge_after_ms: u64,
    /// The same after this quantile of all answer times, from 0 to 1: 0.95 hedges the slowest twentieth. There are no
    /// hedges before a hundred answers are known. 0: no hedging by quantile. Set only one of the two.
    pub hedge_quantile: f64,
}

/// What was done with a retry. Set `struct_size` before.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_retry_stats {
    /// sizeof(roletalk_retry_stats).
    pub struct_size: usize,
    /// Requests that were made again after a failure.
    pub retried: u64,
    /// Requests that were made besides one that was slow.
    pub hedged: u64,
    /// Requests that were not made again because the account was empty.
    pub refused: u64,
}

sized!(roletalk_retry_options roletalk_retry_stats);

impl roletalk_retry_options {
    /// # Errors
    /// `Status::InvalidArgument`.
    fn get(&self) -> Result<Retry, Failure> {
        let mut retry = Retry::new();
        if self.attempts != 0 {
            retry = retry.attempts(self.attempts);
        }
        let millis = |millis: u64, otherwise: Duration| match millis {
            0 => otherwise,
            millis => Duration::from_millis(millis),
        };
        let (backoff, longest) = retry.waits();
        retry = retry.backoff(millis(self.backoff_ms, backoff), millis(self.longest_ms, longest));
        if self.budget == ROLETALK_RETRY_NO_BUDGET {
            retry = retry.budget(0.0);
        } else if part("budget", self.budget)? != 0.0 {
            retry = retry.budget(self.budget);
        }
        match (self.hedge_after_ms, part("hedge_quantile", self.hedge_quantile)?) {
            (0, 0.0) => Ok(retry),
            (0, part) => Ok(retry.hedge(Hedge::Quantile(part))),
            (after, 0.0) => Ok(retry.hedge(Hedge::After(Duration::from_millis(after)))),
            _ => Err(Failure::invalid(
                "`hedge_after_ms` and `hedge_quantile` are both set: set one of them",
            )),
        }
    }
}

/// # Errors
/// `Status::InvalidArgument` when it is no part of something.
fn part(what: &str, part: f64) -> Result<f64, Failure> {
    match (0.0..=1.0).contains(&part) {
        true => Ok(part),
        false => Err(Failure::invalid(format!("`{what}` should be from 0 to 1, and is {part}"))),
    }
}

/// What the handle of a retry stands for.
struct RetryObject(Retry);

/// The retry of a handle; none for zero.
///
/// # Errors
/// `Status::InvalidHandle`.
pub(super) fn optional(retry: roletalk_retry) -> Result<Option<Retry>, Failure> {
    match retry.id {
        0 => Ok(None),
        id => Ok(Some(table::get::<RetryObject>(id)?.0.clone())),
    }
}

/// Makes a retry, for roletalk_send_options.retry and roletalk_destination_set_retry: use one for all requests of a
/// kind, since it has the account of how many further ones there may be. It may be used with several peers, and by
/// several threads at the same time. `options` may be NULL. The caller frees it with roletalk_retry_free.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a `budget` or `hedge_quantile` that is not from 0 to 1, and for both
/// ways to hedge. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_retry_new(
    options: *const roletalk_retry_options,
    retry: *mut roletalk_retry,
) -> roletalk_status {
    enter(|| {
        check_out(retry, "retry")?;
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let made = unsafe { read_or_default(options) }?.get()?;
        let id = table::insert(Arc::new(RetryObject(made)));
        // SAFETY: as above.
        unsafe { put(retry, roletalk_retry { id }, "retry") }
    })
}

/// Counters. `stats->struct_size` must be set.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_retry_get_stats(
    retry: roletalk_retry,
    stats: *mut roletalk_retry_stats,
) -> roletalk_status {
    enter(|| {
        let known = &table::get::<RetryObject>(retry.id)?.0;
        let value = roletalk_retry_stats {
            struct_size: size_of::<roletalk_retry_stats>(),
            retried: known.retried(),
            hedged: known.hedged(),
            refused: known.refused(),
        };
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { sized::write(stats, &value) }
    })
}

/// Frees a handle. Requests that are under way and destinations that were given the retry go on using it.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_retry_free(retry: roletalk_retry) -> roletalk_status {
    enter(|| table::remove::<RetryObject>(retry.id).map(drop))
}
