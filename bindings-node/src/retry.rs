//! When requests that may be handled more than once are made again.

use napi_derive::napi;
use roletalk_engine::{Hedge, Retry};

use crate::choice::millis;

/// What a retry is made from. What is not given is as the engine has it.
#[napi(object)]
pub struct RetrySettings {
    /// Attempts in all.
    pub attempts: Option<u32>,
    /// Milliseconds before the second attempt.
    pub backoff: Option<f64>,
    /// The most of these before any.
    pub longest: Option<f64>,
    /// Further requests for each.
    pub budget: Option<f64>,
    /// Milliseconds after which a request is made a second time.
    pub hedge_after: Option<f64>,
    /// The part of all answers after whose time a request is made a second time.
    pub hedge_quantile: Option<f64>,
}

/// One [`Retry`].
#[napi]
pub struct NativeRetry(pub(crate) Retry);

#[napi]
impl NativeRetry {
    /// With an account of its own.
    #[napi(constructor)]
    #[must_use]
    pub fn new(settings: RetrySettings) -> NativeRetry {
        let RetrySettings { attempts, backoff, longest, budget, hedge_after, hedge_quantile } =
            settings;
        let mut retry = Retry::new();
        if let Some(attempts) = attempts {
            retry = retry.attempts(attempts);
        }
        let (first, most) = retry.waits();
        retry = retry.backoff(backoff.map_or(first, millis), longest.map_or(most, millis));
        if let Some(part) = budget {
            retry = retry.budget(part);
        }
        let after = hedge_after.map(|time| Hedge::After(millis(time)));
        match after.or(hedge_quantile.map(Hedge::Quantile)) {
            Some(hedge) => NativeRetry(retry.hedge(hedge)),
            None => NativeRetry(retry),
        }
    }

    /// See [`Retry::retried`].
    #[napi(getter)]
    pub fn retried(&self) -> f64 {
        self.0.retried() as f64
    }

    /// See [`Retry::hedged`].
    #[napi(getter)]
    pub fn hedged(&self) -> f64 {
        self.0.hedged() as f64
    }

    /// See [`Retry::refused`].
    #[napi(getter)]
    pub fn refused(&self) -> f64 {
        self.0.refused() as f64
    }
}
