//! The two ends of a stream.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use futures_sink::Sink;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::unit::{Unit, UnitInner};
use crate::{
    Error, ErrorKind, Result,
    engine::{Chunk, Dialect, StreamId},
};

/// The reading end of a stream: [`AsyncRead`], and a [`Stream`] of the pieces as they arrive.
///
/// The writer is told how much it may send as this end is read, so an unread stream holds at most
/// [`Limits::stream_window`](crate::engine::Limits) bytes (originals may overrun that, up to
/// `stream_overrun`). Dropping it before the end tells the writer that it was closed. An error that
/// is wrapped in an [`io::Error`] is an [`Error`]; it comes behind the data that arrived before.
pub struct Readable {
    unit: Arc<UnitInner>,
    id: StreamId,
    rest: Bytes,
}

impl Readable {
    pub(crate) fn new(unit: Arc<UnitInner>, id: StreamId) -> Readable {
        Readable { unit, id, rest: Bytes::new() }
    }

    /// The unit at the other end.
    pub fn unit(&self) -> Unit {
        Unit::new(self.unit.clone())
    }

    /// The next piece; none at the end. Cancel-safe.
    ///
    /// # Errors
    /// What the writer broke off with, or [`ErrorKind::ConnectionLost`].
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// Breaks off with a reason for the writer.
    pub fn abort(self, reason: &str) {
        self.unit.with(|state| state.machine.close_stream(self.id, reason));
    }

    fn poll_chunk(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))));
        }
        self.unit.with(|state| match state.machine.read(self.id) {
            Chunk::Data(bytes) => Poll::Ready(Some(Ok(bytes))),
            Chunk::End => Poll::Ready(None),
            Chunk::Failed(error) => Poll::Ready(Some(Err(error))),
            Chunk::Pending => {
                state.wait(self.id, cx);
                Poll::Pending
            }
        })
    }
}

impl AsyncRead for Readable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.poll_chunk(cx)) {
            None => Poll::Ready(Ok(())),
            Some(Err(error)) => Poll::Ready(Err(error.into())),
            Some(Ok(mut bytes)) => {
                let taken = bytes.len().min(into.remaining());
                into.put_slice(&bytes[..taken]);
                bytes.advance(taken);
                self.rest = bytes;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Stream for Readable {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        self.poll_chunk(cx)
    }
}

impl Drop for Readable {
    fn drop(&mut self) {
        self.unit.with(|state| {
            state.machine.close_stream(self.id, "");
            state.forget(self.id);
        });
    }
}

impl fmt::Debug for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readable").field("unit", &self.unit()).finish()
    }
}

/// The writing end of a stream: [`AsyncWrite`], and a [`Sink`] of [`Bytes`].
///
/// Writing waits while the reader is not ready for more. End it with
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) (or [`Sink`]'s close): with peers of this crate
/// that returns when the reader has read everything, with others when the end has been queued.
/// Dropping it without that tells the reader that it broke off.
pub struct Writable {
    unit: Arc<UnitInner>,
    id: StreamId,
    /// What [`Sink`] has taken and could not send yet.
    pending: Bytes,
}

impl Writable {
    pub(crate) fn new(unit: Arc<UnitInner>, id: StreamId) -> Writable {
        Writable { unit, id, pending: Bytes::new() }
    }

    /// The unit at the other end.
    pub fn unit(&self) -> Unit {
        Unit::new(self.unit.clone())
    }

    /// Breaks off with a reason for the reader.
    pub fn abort(self, reason: &str) {
        self.unit.with(|state| state.machine.close_stream(self.id, reason));
    }

    fn poll_send(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let (sent, timer) = self.unit.with(|state| {
            let now = self.unit.shared.clock.now();
            match state.machine.write(self.id, bytes, now) {
                Ok(0) => {
                    state.wait(self.id, cx);
                    // Originals are probed after a while; the connection keeps the time.
                    let probes = !matches!(state.machine.dialect(), Dialect::Credit { .. });
                    (Poll::Pending, state.any_conn().filter(|_| probes).cloned())
                }
                Ok(sent) => (Poll::Ready(Ok(sent)), None),
                Err(error) => (Poll::Ready(Err(error)), None),
            }
        });
        if let Some(timer) = timer {
            timer.wake();
        }
        sent
    }

    fn poll_pending(&mut self, cx: &Context<'_>) -> Poll<Result<()>> {
        while !self.pending.is_empty() {
            let sent = ready!(self.poll_send(cx, &self.pending))?;
            self.pending.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_pending(cx))?;
        self.unit.with(|state| {
            state.machine.finish(self.id)?;
            match state.machine.finished(self.id) {
                Some(finished) => Poll::Ready(finished),
                None => {
                    state.wait(self.id, cx);
                    Poll::Pending
                }
            }
        })
    }
}

impl AsyncWrite for Writable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(cx)).map_err(io::Error::from)?;
        self.poll_send(cx, bytes).map_err(io::Error::from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_pending(cx).map_err(io::Error::from)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx).map_err(io::Error::from)
    }
}

impl Sink<Bytes> for Writable {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_pending(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, bytes: Bytes) -> Result<()> {
        if !self.pending.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "start_send before poll_ready"));
        }
        self.pending = bytes;
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_pending(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_finish(cx)
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        self.unit.with(|state| {
            state.machine.close_stream(self.id, "The writable stream was dropped");
            state.forget(self.id);
        });
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").field("unit", &self.unit()).finish()
    }
}
