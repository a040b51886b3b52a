//! How to send and to ask.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use engine::{Balance, Context, Data, Destination, Fields, Payload, Retry, SendRequest, Unit};

use crate::{
    api::{
        balance::{self, roletalk_balance},
        destination::object::{DestinationObject, get},
        retry,
    },
    border::{
        failure::Failure,
        handles::{roletalk_context, roletalk_destination, roletalk_retry, roletalk_unit},
        headers::{self, roletalk_header},
        memory::slice,
        sized::{read_or_default, sized},
        units,
        values::{roletalk_data, roletalk_string},
    },
    callbacks::{frame, item::Callbacks},
    runtime::wait::Limit,
};

/// How to send or to ask. All zero but the size: to the unit that the destination's balance says, in order, with the
/// default time limit.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_send_options {
    /// sizeof(roletalk_send_options).
    pub struct_size: usize,
    /// The unit to send to; zero to have one chosen. Not for broadcasts and surveys.
    pub unit: roletalk_unit,
    /// Not 0: take the least loaded connection, though it may then overtake others. Not for streams.
    pub unordered: i32,
    /// Requests, surveys, streams: milliseconds for the answer; 0 stands for the default, five minutes.
    /// roletalk_destination_send, roletalk_destination_broadcast: milliseconds to wait for room in the
    /// queue; 0: without a limit; negative: not at all.
    pub timeout_ms: i64,
    /// What goes with it besides the payload: up to 8 KiB of names and values. Left out where a unit does not take
    /// headers.
    pub headers: *const roletalk_header,
    /// How many headers.
    pub header_count: usize,
    /// Not 0: only units that take headers are chosen; ROLETALK_STATUS_UNSUPPORTED when there is none.
    pub headers_required: i32,
    /// The context of the handler on whose behalf this is sent; zero for none. What is asked has at most the time that
    /// is left there, and is given up when that is canceled, with ROLETALK_STATUS_PARENT_CANCELED, unless the handler is
    /// detached. The trace context of the parent goes with it, also with messages. Headers do not.
    pub parent: roletalk_context,
    /// The trace context, as in W3C Trace Context and W3C Baggage, in the place of the parent's; may be empty.
    pub traceparent: roletalk_string,
    /// Only with `traceparent`; may be empty.
    pub tracestate: roletalk_string,
    /// Only with `traceparent`; may be empty.
    pub baggage: roletalk_string,
    /// Requests, streams. Not 0: when no unit serves the role, one is waited for, within `timeout_ms`, instead of
    /// ROLETALK_STATUS_NO_UNIT. Then it does not matter who starts first.
    pub wait_for_unit: i32,
    /// How the unit is chosen; NULL: as the destination says. Neither this nor `key` counts where `unit` is given, and
    /// for broadcasts and surveys, which go to every unit.
    pub balance: *const roletalk_balance,
    /// The same unit for the same key, which may be any bytes, as long as that unit is there: in the place of whatever
    /// chooses, among the units with the tags that are preferred there. Every peer chooses alike. Units are told apart
    /// by their names, which outlive a restart, or by their ids where names are not unique. No key when `data` is NULL.
    pub key: roletalk_string,
    /// For requests only. Says that the request may be handled more than once, and how it is retried: after a lost
    /// connection, an overload, or a failure that says when to try again; with hedging, also while its answer is slow.
    /// Each attempt goes to another unit than the one before, all within `timeout_ms`. Zero: the retry of the
    /// destination; with neither, nothing that may have begun is retried. Ignored when `unit` is given. Messages,
    /// broadcasts, surveys and streams with a retry fail with ROLETALK_STATUS_INVALID_ARGUMENT.
    pub retry: roletalk_retry,
}

sized!(roletalk_send_options);

/// Read options.
pub(super) struct Options {
    pub(super) unit: Option<Unit>,
    pub(super) unordered: bool,
    wait_for_unit: bool,
    timeout_ms: i64,
    pub(super) more: Option<Box<More>>,
}

/// What few want, so apart.
#[derive(Default)]
pub(super) struct More {
    fields: Option<Fields>,
    parent: Option<Context>,
    pub(super) balance: Option<Balance>,
    pub(super) key: Option<Box<[u8]>>,
    retry: Option<Retry>,
}

impl More {
    fn is_wanted(options: &roletalk_send_options) -> bool {
        options.parent.id != 0
            || options.header_count != 0
            || options.headers_required != 0
            || options.traceparent.len != 0
            || options.tracestate.len != 0
            || options.baggage.len != 0
            || !options.balance.is_null()
            || !options.key.data.is_null()
            || options.key.len != 0
            || options.retry.id != 0
    }

    /// # Safety
    /// The options are as the header demands.
    #[cold]
    unsafe fn read(
        options: &roletalk_send_options,
        queue: &Arc<Callbacks>,
    ) -> Result<Box<More>, Failure> {
        let mut more = Box::<More>::default();
        let key = options.key;
        // SAFETY: the caller's promise.
        let (given, bytes) = unsafe {
            (balance::Given::read(options.balance, queue)?, slice(key.data.cast(), key.len, "key")?)
        };
        more.balance = given.map(|given| given.balance);
        more.key = (!key.data.is_null()).then(|| bytes.into());
        more.retry = retry::optional(options.retry)?;
        if options.parent.id != 0 {
            more.parent = Some(options.parent.context()?);
        }
        // SAFETY: the caller's promise.
        let [traceparent, tracestate, baggage] = unsafe {
            [
                options.traceparent.get("traceparent")?,
                options.tracestate.get("tracestate")?,
                options.baggage.get("baggage")?,
            ]
        };
        let traced = [traceparent, tracestate, baggage].iter().any(|text| !text.is_empty());
        if traced || options.header_count != 0 || options.headers_required != 0 {
            let mut fields = Fields::new();
            // SAFETY: as above.
            unsafe { headers::add(&mut fields, options.headers, options.header_count) }?;
            fields.set_required(options.headers_required != 0);
            if traced {
                fields.set_trace(traceparent, tracestate, baggage)?;
            }
            more.fields = Some(fields);
        }
        Ok(more)
    }

    pub(super) fn fields(&self) -> Option<Fields> {
        self.fields.clone()
    }

    pub(super) fn parent(&self) -> Option<&Context> {
        self.parent.as_ref()
    }

    fn destination(&self, of: &Destination) -> Destination {
        let mut handle = of.clone();
        if let Some(fields) = self.fields() {
            handle = handle.with_fields(fields);
        }
        if let Some(parent) = self.parent() {
            handle = handle.within(parent);
        }
        handle
    }
}

/// A handle that sends what few want with everything, to every unit.
pub(super) fn to_all<'a>(more: &Option<Box<More>>, of: &'a Destination) -> Cow<'a, Destination> {
    match more {
        None => Cow::Borrowed(of),
        Some(more) => Cow::Owned(more.destination(of)),
    }
}

/// The same for whatever is sent alone.
macro_rules! with_more {
    ($sent:ident, $more:expr) => {
        if let Some(more) = &$more {
            if let Some(fields) = more.fields() {
                $sent = $sent.fields(fields);
            }
            if let Some(parent) = more.parent() {
                $sent = $sent.within(parent);
            }
            if let Some(balance) = &more.balance {
                $sent = $sent.balance(balance.clone());
            }
            if let Some(key) = &more.key {
                $sent = $sent.key(key);
            }
        }
    };
}
pub(super) use with_more;

impl Options {
    /// # Safety
    /// `options` is NULL or as the header demands.
    pub(super) unsafe fn read(
        options: *const roletalk_send_options,
        queue: &Arc<Callbacks>,
    ) -> Result<Options, Failure> {
        // SAFETY: the caller's promise.
        let options = unsafe { read_or_default(options) }?;
        let unit = units::optional(options.unit)?;
        let more = match More::is_wanted(&options) {
            false => None,
            // SAFETY: as above.
            true => Some(unsafe { More::read(&options, queue) }?),
        };
        let (unordered, timeout_ms) = (options.unordered != 0, options.timeout_ms);
        let wait_for_unit = options.wait_for_unit != 0;
        Ok(Options { unit, unordered, wait_for_unit, timeout_ms, more })
    }

    /// For what is answered.
    pub(super) fn asking(self) -> Result<Asking, Failure> {
        let timeout = match u64::try_from(self.timeout_ms) {
            Ok(0) => None,
            Ok(millis) => Some(Duration::from_millis(millis)),
            Err(_) => return Err(Failure::invalid("The time for an answer is negative")),
        };
        let Options { unit, unordered, wait_for_unit, more, .. } = self;
        Ok(Asking { unit, unordered, wait_for_unit, timeout, more })
    }

    /// For room. The thread that makes it does not wait for it.
    pub(super) fn limit(&self) -> Limit {
        match self.timeout_ms {
            _ if frame::is_inline() => Limit::Now,
            0 => Limit::Never,
            millis if millis < 0 => Limit::Now,
            millis => Limit::from_millis(millis),
        }
    }

    pub(super) fn not_for_units(&self) -> Result<(), Failure> {
        match self.unit {
            None => Ok(()),
            Some(_) => Err(Failure::invalid("This goes to every unit: none can be chosen")),
        }
    }
}

/// How to ask.
pub(super) struct Asking {
    pub(super) unit: Option<Unit>,
    unordered: bool,
    pub(super) wait_for_unit: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) more: Option<Box<More>>,
}

impl Asking {
    pub(super) fn request<'a>(
        &self,
        to: &'a Destination,
        event: &'a str,
        payload: Payload<'a>,
    ) -> SendRequest<'a> {
        let mut request = to.request_payload(event, payload);
        if let Some(unit) = &self.unit {
            request = request.to(unit);
        }
        if let Some(timeout) = self.timeout {
            request = request.timeout(timeout);
        }
        if self.unordered {
            request = request.unordered();
        }
        if self.wait_for_unit {
            request = request.wait_for_unit();
        }
        with_more!(request, self.more);
        if let Some(retry) = self.more.as_ref().and_then(|more| more.retry.as_ref()) {
            request = request.retry(retry.clone());
        }
        request
    }
}

/// What every call is given that sends something.
pub(super) struct Given<'a> {
    pub(super) object: Arc<DestinationObject>,
    pub(super) event: &'a str,
    /// The caller's, mostly sent before the call returns, without a copy.
    pub(super) payload: Payload<'a>,
    pub(super) options: Options,
}

/// A copy that outlives the call.
pub(super) fn owned(payload: Payload<'_>) -> Data {
    Data::from_raw(payload.kind, Bytes::copy_from_slice(payload.bytes))
}

/// For what is no request, and never made again.
///
/// # Safety
/// The pointers are as the header demands, and valid for `'a`.
pub(super) unsafe fn given<'a>(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
) -> Result<Given<'a>, Failure> {
    // SAFETY: the caller's promise.
    let given = unsafe { given_request(destination, event, data, options) }?;
    match given.options.more.as_ref().is_some_and(|more| more.retry.is_some()) {
        false => Ok(given),
        true => {
            let text = "Only requests are made again: leave `retry` out for everything else";
            Err(Failure::invalid(text))
        }
    }
}

/// # Safety
/// As [`given`].
pub(super) unsafe fn given_request<'a>(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
) -> Result<Given<'a>, Failure> {
    let object = get(destination)?;
    // SAFETY: the caller's promise.
    let (event, payload, options) =
        unsafe { (event.get("event")?, data.payload()?, Options::read(options, &object.queue)?) };
    Ok(Given { object, event, payload, options })
}
