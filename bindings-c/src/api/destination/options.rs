//! How to send and to ask.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use engine::{Data, Destination, Payload, SendRequest, Unit};

use crate::{
    api::destination::object::{DestinationObject, get},
    border::{
        failure::Failure,
        handles::{roletalk_destination, roletalk_unit},
        sized::{read_or_default, sized},
        units,
        values::{roletalk_data, roletalk_string},
    },
    callbacks::frame,
    runtime::wait::Limit,
};

/// How to send or to ask. All zero but the size: to the next unit in turn, in order, with the default
/// time limit.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_send_options {
    /// sizeof(roletalk_send_options).
    pub struct_size: usize,
    /// The unit to send to; zero for the next in turn. Not for broadcasts and surveys.
    pub unit: roletalk_unit,
    /// Not 0: take the least loaded connection, though it may then overtake others. Not for streams.
    pub unordered: i32,
    /// Requests, surveys, streams: milliseconds for the answer; 0 stands for the default, five minutes.
    /// roletalk_destination_send, roletalk_destination_broadcast: milliseconds to wait for room in the
    /// queue; 0: without a limit; negative: not at all.
    pub timeout_ms: i64,
}

sized!(roletalk_send_options);

/// Read options.
pub(super) struct Options {
    pub(super) unit: Option<Unit>,
    pub(super) unordered: bool,
    timeout_ms: i64,
}

impl Options {
    /// # Safety
    /// `options` is NULL or as the header demands.
    pub(super) unsafe fn read(options: *const roletalk_send_options) -> Result<Options, Failure> {
        // SAFETY: the caller's promise.
        let options = unsafe { read_or_default(options) }?;
        let unit = units::optional(options.unit)?;
        Ok(Options { unit, unordered: options.unordered != 0, timeout_ms: options.timeout_ms })
    }

    /// For what is answered.
    pub(super) fn asking(self) -> Result<Asking, Failure> {
        let timeout = match u64::try_from(self.timeout_ms) {
            Ok(0) => None,
            Ok(millis) => Some(Duration::from_millis(millis)),
            Err(_) => return Err(Failure::invalid("The time for an answer is negative")),
        };
        Ok(Asking { unit: self.unit, unordered: self.unordered, timeout })
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
    pub(super) timeout: Option<Duration>,
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

/// # Safety
/// The pointers are as the header demands, and valid for `'a`.
pub(super) unsafe fn given<'a>(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
) -> Result<Given<'a>, Failure> {
    let object = get(destination)?;
    // SAFETY: the caller's promise.
    let (event, payload, options) =
        unsafe { (event.get("event")?, data.payload()?, Options::read(options)?) };
    Ok(Given { object, event, payload, options })
}
