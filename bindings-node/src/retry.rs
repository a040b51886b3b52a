//! When requests that may be handled more than once are made again. JavaScript makes them.

use napi_derive::napi;
use roletalk_engine::{Error, ErrorKind, Failure, Hedge, Retry};

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

/// Why an attempt has failed, as far as that matters.
#[napi(object)]
pub struct AttemptFailure {
    /// The name of the kind of its error.
    pub code: String,
    /// Whether surely no handler was begun.
    pub unhandled: bool,
    /// The milliseconds after which the handler wants to be asked again.
    pub retry_after: Option<f64>,
}

impl AttemptFailure {
    fn error(&self) -> Error {
        let kind = ErrorKind::ALL.iter().find(|kind| kind.name() == self.code);
        let kind = kind.copied().unwrap_or(ErrorKind::Rejected);
        let retry_after = self.retry_after.map(millis);
        let failure = Failure { unhandled: self.unhandled, retry_after, ..Failure::default() };
        Error::new(kind, "").with_failure(failure)
    }
}

/// One [`Retry`].
#[napi]
pub struct NativeRetry(Retry);

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
        if backoff.is_some() || longest.is_some() {
            retry = retry.backoff(millis(backoff.unwrap_or(25.0)), millis(longest.unwrap_or(1e3)));
        }
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

    /// See [`Retry::begin`].
    #[napi]
    pub fn begin(&self) {
        self.0.begin();
    }

    /// See [`Retry::again`]: milliseconds, from and to JavaScript, and a number from 0 to 1 that is drawn by lot.
    #[napi]
    pub fn again(&self, made: u32, failure: AttemptFailure, left: f64, lot: f64) -> Option<f64> {
        let random = (lot.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        let wait = self.0.again(made, &failure.error(), millis(left), random);
        wait.map(|wait| wait.as_secs_f64() * 1e3)
    }

    /// See [`Retry::may_help`].
    #[napi]
    pub fn may_help(&self, failure: AttemptFailure) -> bool {
        Retry::may_help(&failure.error())
    }

    /// See [`Retry::hedge_after`]: milliseconds.
    #[napi]
    pub fn hedge_after(&self) -> Option<f64> {
        self.0.hedge_after().map(|time| time.as_secs_f64() * 1e3)
    }

    /// See [`Retry::may_hedge`].
    #[napi]
    pub fn may_hedge(&self) -> bool {
        self.0.may_hedge()
    }

    /// See [`Retry::answered`]: after so many milliseconds.
    #[napi]
    pub fn answered(&self, took: f64) {
        self.0.answered(millis(took));
    }
}
