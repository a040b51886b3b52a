//! Loop-native sockets where there are none: all connections are on sockets of Node's.

use std::{io, rc::Rc};

use napi::{
    Env,
    bindgen_prelude::{Function, Unknown},
};
use roletalk_engine::ws::Side;

/// There is none.
pub(crate) enum Socket {}

/// What was read.
pub(crate) struct Read {
    pub(crate) early: Vec<u8>,
    pub(crate) answered: u32,
    pub(crate) now: io::Result<Option<usize>>,
}

impl Socket {
    pub(crate) fn new(
        _env: &Env,
        _fd: i32,
        _side: Side,
        _callback: &Function<'_, (), Unknown<'static>>,
    ) -> Option<Rc<Socket>> {
        None
    }

    pub(crate) fn take_found(&self) -> (bool, bool) {
        match *self {}
    }

    pub(crate) fn read(&self, _buffer: &mut [u8]) -> Read {
        match *self {}
    }

    pub(crate) fn pass(&self, _bytes: &[u8]) {
        match *self {}
    }

    pub(crate) fn write(&self, _bytes: &mut Vec<u8>) -> bool {
        match *self {}
    }

    pub(crate) fn flush(&self) -> io::Result<(bool, bool)> {
        match *self {}
    }

    pub(crate) fn pending(&self) -> usize {
        match *self {}
    }

    pub(crate) fn is_paused(&self) -> bool {
        match *self {}
    }

    pub(crate) fn set_paused(&self, _paused: bool) {
        match *self {}
    }

    pub(crate) fn settle(&self) {
        match *self {}
    }

    pub(crate) fn release(&self) -> Vec<u8> {
        match *self {}
    }
}
