//! A connection's socket, watched: what comes and what goes is noted in its [`Activity`].
//!
//! The socket outlives hyper's use of it, so that a connection that the server ends can still take what the client is
//! sending: closing a socket with unread bytes makes the kernel reset the connection, and the client would lose the
//! answer that explains why.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::select;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use proto::limits::{LINGER_BYTES_MAX, LINGER_SECONDS_MAX};
use proto::port::runtime;

use crate::activity::Activity;

/// How an HTTP/2 connection starts, and no HTTP/1 request does.
const HTTP2_START: &[u8] = b"PRI ";
/// Bytes of the first read: all that hyper wants to tell the two apart.
const FIRST_READ_BYTES: usize = 24;
/// Bytes that a lingering socket takes at once.
const LINGER_READ_BYTES: usize = 16 << 10;

/// A watched socket. Clones share it.
pub(crate) struct Wire<I> {
    io: Rc<RefCell<I>>,
    activity: Rc<Activity>,
    /// Whether anything was read.
    started: bool,
}

impl<I> Clone for Wire<I> {
    fn clone(&self) -> Self {
        Wire { io: self.io.clone(), activity: self.activity.clone(), started: self.started }
    }
}

impl<I: Read + Write + Unpin> Wire<I> {
    /// Watches `io`.
    pub(crate) fn new(io: I, activity: Rc<Activity>) -> Wire<I> {
        Wire { io: Rc::new(RefCell::new(io)), activity, started: false }
    }

    /// Sends no more, and for a moment reads and drops what the client still sends, so that it gets to read its answer.
    pub(crate) async fn linger(self) {
        let taking = pin!(async {
            if std::future::poll_fn(|cx| Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(cx)).await.is_err() {
                return;
            }
            let mut left = LINGER_BYTES_MAX;
            while left > 0 {
                match std::future::poll_fn(|cx| self.poll_take(cx)).await {
                    Ok(0) | Err(_) => return,
                    Ok(bytes) => left = left.saturating_sub(bytes),
                }
            }
        });
        select(taking, runtime::sleep(Duration::from_secs(LINGER_SECONDS_MAX))).await;
    }

    /// Reads and drops some bytes; 0 at the end.
    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [MaybeUninit::uninit(); LINGER_READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut *self.io.borrow_mut()).poll_read(cx, buf.unfilled()))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl<I: Read + Unpin> Read for Wire<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut io = this.io.borrow_mut();
        if this.started {
            ready!(Pin::new(&mut *io).poll_read(cx, out))?;
        } else {
            let mut bytes = [MaybeUninit::uninit(); FIRST_READ_BYTES];
            let mut buf = ReadBuf::uninit(&mut bytes[..out.remaining().min(FIRST_READ_BYTES)]);
            ready!(Pin::new(&mut *io).poll_read(cx, buf.unfilled()))?;
            out.put_slice(buf.filled());
            this.started = true;
            if buf.filled().starts_with(HTTP2_START) {
                this.activity.speaks_http2();
            }
        }
        this.activity.received();
        Poll::Ready(Ok(()))
    }
}

impl<I: Write + Unpin> Wire<I> {
    /// Notes the outcome of a write.
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.activity.write_blocked(),
            Poll::Ready(Ok(bytes)) => self.activity.written(*bytes),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl<I: Write + Unpin> Write for Wire<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.io.borrow_mut()).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.io.borrow_mut()).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(cx)
    }
}
