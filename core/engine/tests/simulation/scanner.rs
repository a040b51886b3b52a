//! What must hold of the bytes of a connection, whoever writes them.

use std::collections::{HashMap, HashSet};

use roletalk_engine::wire::{Extensions, Frame, Handshake, Wrapped};

/// Follows the frames of one direction: after a close frame nothing may come, no request is answered
/// twice, unless peers share an id, so that answers may go astray, and what was asked is given up once at most.
#[derive(Default)]
pub(crate) struct Scanner {
    head: Vec<u8>,
    http: bool,
    /// What is missing of a frame's body, and what is there of it, with the mask before it.
    left: usize,
    body: Vec<u8>,
    is_masked: bool,
    is_message: bool,
    closed: bool,
    answered: HashSet<u64>,
    /// Requests that were sent, with the numbers that their payloads begin with.
    asked: HashMap<u64, u64>,
    /// The numbers of those that were given up.
    given_up: Vec<u64>,
    /// The correlations of those that were given up and not asked here.
    elsewhere: Vec<u64>,
    /// The correlations of what was asked, and given up, here or elsewhere, since the last call.
    changes: Vec<Change>,
    /// What this side has confirmed, and what it has made use of.
    extensions: Extensions,
    used: Extensions,
}

/// What was said of a correlation.
pub(crate) enum Change {
    Asked(u64),
    GivenUp(u64),
}

impl Scanner {
    /// What was asked and given up since the last call, in order. What was asked on a connection that is gone may be
    /// given up here.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The correlations of those that were given up since the last call and not asked here.
    pub(crate) fn elsewhere(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.elsewhere)
    }

    /// The requests of this connection that were given up since the last call, by the numbers that their payloads begin with.
    pub(crate) fn given_up(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.given_up)
    }

    /// Nothing was sent that is not agreed on with the other side.
    pub(crate) fn check_agreed(&self, other: &Scanner) {
        let agreed = self.extensions.agreed(other.extensions);
        assert_eq!(self.used.agreed(agreed), self.used, "of {agreed:?} there was used more");
    }

    pub(crate) fn scan(&mut self, mut bytes: &[u8], astray: bool) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.body.extend_from_slice(body);
                self.left -= body.len();
                bytes = rest;
                if self.left == 0 {
                    self.end_of_frame(astray);
                }
                continue;
            }
            assert!(!self.closed, "{} bytes behind a close frame", bytes.len());
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if self.http {
                self.begin_frame();
            } else if self.head.ends_with(b"\r\n\r\n") {
                self.http = true;
                self.head.clear();
            }
        }
    }

    /// Takes the header of a frame, once it is whole.
    fn begin_frame(&mut self) {
        let [first, second, long @ ..] = &self.head[..] else { return };
        let wide = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if long.len() < wide {
            return;
        }
        let len = match wide {
            0 => usize::from(second & 0x7f),
            _ => long.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)),
        };
        self.is_masked = second & 0x80 != 0;
        self.is_message = first & 0x0f == 2;
        self.closed = first & 0x0f == 8;
        self.left = len + if self.is_masked { 4 } else { 0 };
        self.head.clear();
    }

    fn end_of_frame(&mut self, astray: bool) {
        let mut body = std::mem::take(&mut self.body);
        if !self.is_message {
            return;
        }
        if self.is_masked {
            let message = body.split_off(4);
            let mask = body.iter().cycle();
            body = message.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
        }
        if let Ok(Handshake::Confirm(confirm)) = Handshake::decode(&body) {
            self.extensions = confirm.x;
        }
        let wrapped = Wrapped::decode(&body).expect("broken fields");
        if wrapped.is_some() {
            self.used.fields = 1;
        }
        let corr = match Frame::decode(wrapped.map_or(&body, |wrapped| wrapped.inner)) {
            Ok(Frame::Response { corr, .. } | Frame::Reject { corr, .. }) => corr,
            Ok(Frame::StreamAccept { corr, .. } | Frame::StreamRefuse { corr, .. }) => corr,
            Ok(
                Frame::Request { corr, payload, .. } | Frame::StreamRequest { corr, payload, .. },
            ) => {
                let number = payload.bytes.first_chunk().copied().map(u64::from_le_bytes);
                self.asked.insert(corr.value(), number.unwrap_or_default());
                self.changes.push(Change::Asked(corr.value()));
                return;
            }
            Ok(Frame::Cancel { corr }) => {
                self.used.cancel = 1;
                match self.asked.remove(&corr.value()) {
                    Some(number) => self.given_up.push(number),
                    None => self.elsewhere.push(corr.value()),
                }
                self.changes.push(Change::GivenUp(corr.value()));
                return;
            }
            // Those of the handshake are no frames.
            Ok(_) | Err(_) => return,
        };
        let first = self.answered.insert(corr.value());
        assert!(first || astray, "request {corr:?} was answered twice");
    }
}
