//! Roletalk frames and data types to and from bytes.
//!
//! Everything here is a pure function of its arguments: no I/O, no clock and no randomness.
//!
//! - [`Frame`] is what connected peers exchange. Decoding one borrows from the received message
//!   and allocates nothing unless a name is not UTF-8 or the frame carries JSON.
//! - [`Wrapped`] is a frame with [`Fields`], which peers exchange that have agreed on it in their
//!   [`Extensions`]. Fields stay in the bytes they came in, too.
//! - [`Handshake`] is what they exchange before that.
//! - [`Data`] is the owned datum that users of the crate send and receive.
//!
//! Received bytes are hostile until proven otherwise: no decoder here panics, and what is
//! malformed is reported as an error short enough to be the reason of a WebSocket close.

mod data;
mod de;
mod extensions;
mod fields;
mod frame;
mod handshake;
mod json;
mod last_names;
mod name;
mod num;
mod number;
mod payload;
mod ser;
mod text;

pub use data::{Data, DataError};
pub use extensions::Extensions;
pub use fields::{
    Failure, Fields, FieldsView, HeaderValue, MAX_FAILURE, MAX_HEADER_COUNT, MAX_HEADER_NAME,
    MAX_HEADERS, Wrapped,
};
pub(crate) use fields::{MAX_KNOWN, fields_len, put_fields};
pub use frame::{Acquaint, DecodeError, Direction, Frame, RolesUpdate, StreamOp};
pub(crate) use frame::{
    message_len, put_message, put_request, put_response, read_response, request_len, response_len,
};
pub use handshake::{Challenge, Confirm, Handshake, HandshakeDecodeError, MAX_ID, Meta, Proof};
pub(crate) use last_names::{LastNames, Repeated};
pub use name::{MAX_NAME, NameTooLong, check_name};
pub use num::{MAX_NUMBER, Num};
pub use payload::{DataType, Payload};
pub(crate) use text::cut;
