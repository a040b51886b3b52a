//! Destinations: sending, asking, and what is answered.

// In the order of the header, which the empty lines keep.

pub mod ready;

pub mod choice;

pub mod send;

pub mod request;

pub mod survey;

pub mod answer;

pub mod open;

pub(super) mod object;
pub mod options;
