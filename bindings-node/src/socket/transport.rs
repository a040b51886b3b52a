//! A connection's file descriptor and what is between it and the engine: shared by the loop, which
//! reads and writes, and the guard, which does so while the loop is blocked.

use std::{
    io::{self, Read, Write},
    mem,
    net::TcpStream,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use roletalk_engine::ws::{FrameWriter, Side};

use super::pings::Pings;

/// The guard reads no more for a connection when it has so much for the loop: four windows of a
/// stream.
const MAX_EARLY: usize = 4 << 20;
/// Likewise when it has so much for the loop in all.
const MAX_EARLY_TOTAL: usize = 256 << 20;
/// Likewise when it has answered so many pings: somebody who sends more does not read the pongs.
const MAX_ANSWERED: u32 = 64;
/// What the guard reads at once.
const CHUNK: usize = 64 << 10;

/// One connection's bytes. The lock is held for a few system calls that do not block.
pub(super) struct Transport {
    stream: TcpStream,
    wire: Mutex<Wire>,
    total: Total,
}

/// Bytes that the guard has read for all connections of a loop.
#[derive(Clone, Default)]
pub(super) struct Total(Arc<AtomicUsize>);

struct Wire {
    pings: Pings,
    writer: FrameWriter,
    /// What the guard has read, without the pings that it has answered.
    early: Vec<u8>,
    /// What came behind that and is not whole.
    undecided: Vec<u8>,
    /// Pings that were answered since the loop has last read.
    answered: u32,
    /// What could not be written at once, and how much of it is: frames of the engine, then the
    /// guard's pongs.
    output: Vec<u8>,
    written: usize,
    /// What was found to be wrong with the connection where the loop could not be told: the system
    /// tells of it only once.
    failed: Option<io::Error>,
    /// Nothing is to be read.
    paused: bool,
    /// How often the loop has read.
    reads: u64,
}

/// What the loop has read.
pub(super) struct Reading {
    /// What the guard has read before.
    pub(super) early: Vec<u8>,
    /// Pings that the guard has answered.
    pub(super) answered: u32,
    /// What was read now: so many bytes, none at the end, or nothing yet.
    pub(super) now: io::Result<Option<usize>>,
    /// Whether something waits to be written.
    pub(super) writes: bool,
}

impl Transport {
    /// `stream` is non-blocking.
    pub(super) fn new(stream: TcpStream, side: Side, mask_seed: u64, total: Total) -> Transport {
        let wire = Wire {
            pings: Pings::new(side),
            writer: FrameWriter::new(side, mask_seed),
            early: Vec::new(),
            undecided: Vec::new(),
            answered: 0,
            output: Vec::new(),
            written: 0,
            failed: None,
            paused: false,
            reads: 0,
        };
        Transport { stream, wire: Mutex::new(wire), total }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        // What a panic leaves is bytes in order: nothing between two steps is inconsistent.
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // For the loop.

    /// Reads what the guard has read, and then, into `buffer`, what has come since.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Reading {
        let mut wire = self.wire();
        wire.reads += 1;
        let mut early = mem::take(&mut wire.early);
        self.total.0.fetch_sub(early.len(), Ordering::Relaxed);
        if !wire.undecided.is_empty() {
            let undecided = mem::take(&mut wire.undecided);
            wire.pings.pass(&undecided);
            early.extend_from_slice(&undecided);
        }
        let mut now = would_block((&self.stream).read(buffer));
        if matches!(now, Ok(Some(0)) | Err(_))
            && let Some(error) = wire.failed.take()
        {
            now = Err(error);
        }
        if let Ok(Some(len)) = now {
            wire.pings.pass(&buffer[..len]);
        }
        Reading {
            early,
            answered: mem::take(&mut wire.answered),
            now,
            writes: !wire.output.is_empty(),
        }
    }

    /// Follows bytes that were read before this had the connection.
    pub(super) fn pass(&self, bytes: &[u8]) {
        self.wire().pings.pass(bytes);
    }

    /// Writes all of `bytes`, or takes over what does not go out at once, to be
    /// [flushed](Transport::flush) later. `bytes` are empty then. Returns whether all is written.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) -> bool {
        let mut wire = self.wire();
        if !wire.output.is_empty() {
            // A pong of the guard's that is half out.
            wire.output.append(bytes);
            let flushed = wire.flush(&self.stream);
            wire.note(flushed);
            return wire.output.is_empty();
        }
        let written = would_block((&self.stream).write(bytes));
        let len = wire.note(written).flatten().unwrap_or(0);
        if len == bytes.len() {
            bytes.clear();
            return true;
        }
        mem::swap(&mut wire.output, bytes);
        wire.written = len;
        false
    }

    /// Goes on writing. Returns whether anything was written, and whether all is.
    pub(super) fn flush(&self) -> io::Result<(bool, bool)> {
        let mut wire = self.wire();
        let any = wire.flush(&self.stream).map_err(|error| wire.failed.take().unwrap_or(error))?;
        Ok((any, wire.output.is_empty()))
    }

    /// Bytes that wait to be written.
    pub(super) fn pending(&self) -> usize {
        let wire = self.wire();
        wire.output.len() - wire.written
    }

    /// Ends it: what waits to be written is for somebody else to write, who reads as well.
    pub(super) fn take_rest(&self) -> Vec<u8> {
        let mut wire = self.wire();
        // The guard may be about to look.
        wire.paused = true;
        let written = mem::take(&mut wire.written);
        let mut rest = mem::take(&mut wire.output);
        rest.drain(..written);
        rest
    }

    /// Whether anything is to be read, by the guard as well.
    pub(super) fn set_paused(&self, paused: bool) {
        self.wire().paused = paused;
    }

    /// Whether the guard has anything for the loop.
    pub(super) fn has_early(&self) -> bool {
        self.wire().has_early()
    }

    // For the guard.

    /// How often the loop has read, and whether something waits to be written. None when the loop
    /// wants nothing to be read, or the guard has as much for it as it may.
    pub(super) fn reads(&self) -> Option<(u64, bool)> {
        let wire = self.wire();
        let may_read = !wire.paused && self.has_room(&wire);
        may_read.then(|| (wire.reads, !wire.output.is_empty()))
    }

    /// Does for the loop what cannot wait, unless it has read since it had read `reads` times: goes
    /// on writing, reads, and answers pings. Returns whether there is something for the loop.
    pub(super) fn stand_in(&self, reads: u64) -> bool {
        let mut wire = self.wire();
        let wire = &mut *wire;
        if wire.reads != reads || wire.paused {
            return false;
        }
        let mut chunk = vec![0; CHUNK];
        while self.has_room(wire) {
            let read = would_block((&self.stream).read(&mut chunk));
            // Its end is for the loop to find.
            let Some(Some(len @ 1..)) = wire.note(read) else { break };
            let mut bytes = mem::take(&mut wire.undecided);
            bytes.extend_from_slice(&chunk[..len]);
            let Wire { pings, early, writer, output, answered, .. } = wire;
            let before = early.len();
            let undecided = pings.take_out(&bytes, early, |payload| {
                writer.pong(output, payload);
                *answered = answered.saturating_add(1);
            });
            self.total.0.fetch_add(early.len() - before, Ordering::Relaxed);
            wire.undecided = undecided.to_vec();
        }
        let flushed = wire.flush(&self.stream);
        wire.note(flushed);
        wire.has_early()
    }

    /// Whether the guard may read more.
    fn has_room(&self, wire: &Wire) -> bool {
        wire.early.len() < MAX_EARLY
            && wire.answered < MAX_ANSWERED
            && self.total.0.load(Ordering::Relaxed) < MAX_EARLY_TOTAL
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        let wire = self.wire.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.total.0.fetch_sub(wire.early.len(), Ordering::Relaxed);
    }
}

impl Wire {
    fn has_early(&self) -> bool {
        self.answered > 0 || !self.early.is_empty() || !self.undecided.is_empty()
    }

    /// Keeps what is wrong with the connection for the loop, which finds it when it reads or flushes.
    fn note<T>(&mut self, done: io::Result<T>) -> Option<T> {
        match done {
            Ok(done) => Some(done),
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }

    /// Writes as much as there is and as goes. Returns whether that was anything.
    fn flush(&mut self, mut stream: &TcpStream) -> io::Result<bool> {
        let mut any = false;
        while self.written < self.output.len() {
            let written = would_block(stream.write(&self.output[self.written..]))?;
            let Some(len @ 1..) = written else { return Ok(any) };
            self.written += len;
            any = true;
        }
        self.written = 0;
        self.output = Vec::new();
        Ok(any)
    }
}

/// None when it would have blocked. A call that a signal has interrupted counts as that: the loop
/// comes back to it.
fn would_block(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(len) => Ok(Some(len)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A connection that the other side has reset: it closes with bytes that it has not read.
    fn reset() -> Transport {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        stream.write_all(b"unread").unwrap();
        other.peek(&mut [0]).unwrap();
        drop(other);
        stream.set_nonblocking(true).unwrap();
        // Readable, without taking what is wrong.
        let mut entry = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one entry.
        assert_eq!(unsafe { libc::poll(&raw mut entry, 1, 30_000) }, 1);
        Transport::new(stream, Side::Client, 1, Total::default())
    }

    fn kind(read: Reading) -> io::ErrorKind {
        read.now.unwrap_err().kind()
    }

    #[test]
    fn the_loop_reads_of_a_reset() {
        assert_eq!(kind(reset().read(&mut [0; 8])), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn the_loop_hears_of_a_reset_that_the_guard_has_met() {
        let transport = reset();
        assert!(!transport.stand_in(0), "there is nothing to fetch");
        assert_eq!(kind(transport.read(&mut [0; 8])), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn the_loop_hears_of_a_reset_that_a_write_has_met() {
        let transport = reset();
        assert!(!transport.write(&mut b"lost".to_vec()));
        assert_eq!(kind(transport.read(&mut [0; 8])), io::ErrorKind::ConnectionReset);
        let transport = reset();
        assert!(!transport.write(&mut b"lost".to_vec()));
        assert_eq!(transport.flush().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
