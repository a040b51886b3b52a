//! The numbers that the addon and JavaScript share. Each is written once, in Rust, with [`numbers`];
//! `npm run protocol` makes `lib/protocol.js` from them, where they are constants.

use napi_derive::napi;
use roletalk_engine::DataType;

use crate::{commands, course, events, fields, native};

/// Numbers with their names, under a name of their own; constants that stand alone have none.
pub(crate) type Numbers = (&'static str, &'static [(&'static str, u32)]);

/// Makes an enum, or constants, and the list of their names and numbers.
macro_rules! numbers {
    (
        $(#[$about:meta])*
        enum $enum:ident: $repr:ident {
            $($(#[$text:meta])* $variant:ident = $number:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr($repr)]
        pub(crate) enum $enum {
            $($(#[$text])* $variant = $number,)+
        }

        impl $enum {
            pub(crate) const NUMBERS: $crate::protocol::Numbers =
                (stringify!($enum), &[$((stringify!($variant), $number)),+]);
        }

        impl TryFrom<u32> for $enum {
            type Error = ();

            fn try_from(number: u32) -> Result<$enum, ()> {
                match number {
                    $($number => Ok($enum::$variant),)+
                    _ => Err(()),
                }
            }
        }
    };
    (
        const $list:ident = $group:literal {
            $($(#[$text:meta])* $name:ident: $type:ident = $number:expr,)+
        }
    ) => {
        $($(#[$text])* pub(crate) const $name: $type = $number;)+

        pub(crate) const $list: $crate::protocol::Numbers =
            ($group, &[$((stringify!($name), $name as u32)),+]);
    };
}
pub(crate) use numbers;

/// A number that the addon and JavaScript share.
#[napi(object)]
pub struct ProtocolNumber {
    /// The object that has it; empty for a constant that stands alone.
    pub group: String,
    /// Its name in Rust.
    pub name: String,
    /// The number.
    pub number: u32,
}

/// All numbers that the addon and JavaScript share: what `lib/protocol.js` has to have.
#[napi(catch_unwind)]
pub fn protocol() -> Vec<ProtocolNumber> {
    let shared: [Numbers; 12] = [
        commands::Command::NUMBERS,
        commands::LAYOUT,
        events::Op::NUMBERS,
        events::Header::NUMBERS,
        events::LAYOUT,
        events::FLAGS,
        events::OUTPUT_FLAGS,
        events::OUTCOMES,
        native::STREAM_STATES,
        course::STEPS,
        fields::Field::NUMBERS,
        fields::LAYOUT,
    ];
    let numbers = shared.into_iter().flat_map(|(group, numbers)| {
        numbers.iter().map(move |(name, number)| (group, (*name).to_owned(), *number))
    });
    let numbers = numbers
        .chain(data_types().map(|kind| ("Kind", kind.name().to_owned(), kind.as_byte().into())));
    let number =
        |(group, name, number): (&str, _, _)| ProtocolNumber { group: group.into(), name, number };
    numbers.map(number).collect()
}

/// The data types that have a name.
fn data_types() -> impl Iterator<Item = DataType> {
    let types = (0..=u8::MAX).map(DataType::from_byte);
    types.filter(|kind| !matches!(kind, DataType::Unknown(_)))
}
