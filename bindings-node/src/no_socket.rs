//! Loop-native sockets where there are none: all connections are on sockets of Node's.

use std::{
    net::TcpStream,
    rc::Rc,
    sync::{Arc, Mutex},
};

use napi::{
    Env,
    bindgen_prelude::{Function, Unknown},
};
use roletalk_engine::ConnId;
use roletalk_host::Host;

/// There is none.
pub(crate) enum Socket {}

pub(crate) fn duplicate(_fd: i32) -> Option<TcpStream> {
    None
}

impl Socket {
    pub(crate) fn new(
        _env: &Env,
        _stream: &TcpStream,
        _host: &Arc<Mutex<Host>>,
        _conn: ConnId,
        _callback: &Function<'_, (), Unknown<'static>>,
    ) -> Option<Rc<Socket>> {
        None
    }

    pub(crate) fn take_found(&self) -> (bool, bool) {
        match *self {}
    }

    pub(crate) fn set_writes(&self, _writes: bool) {
        match *self {}
    }

    pub(crate) fn set_paused(&self, _paused: bool) {
        match *self {}
    }

    pub(crate) fn settle(&self) {
        match *self {}
    }

    pub(crate) fn close(&self) {
        match *self {}
    }
}
