//! One connection: hyper on the core's own executor and timers, HTTP/1.1 and HTTP/2 by prior knowledge.
//!
//! Invariant: every connection ends. Heads and bodies that stay away time out, and draining closes the rest.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::rt::{Executor, Read, Sleep, Timer, Write};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::server::conn::auto;
use proto::port::Disk;
use proto::port::runtime::{self, LocalFuture};
use send_wrapper::SendWrapper;

use crate::App;

/// Longest head of a request, path and headers together; also the bytes that are read at once.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// Headers of a request: all that user metadata may have, and as many again.
const HEADERS_MAX: usize = 128;
/// How long the head of the first request, and of each next one, may take.
const HEAD_SILENCE_MAX: Duration = Duration::from_secs(60);
/// Requests of one HTTP/2 connection that are served at the same time.
const STREAMS_MAX: u32 = 64;
/// Bytes that one HTTP/2 request may have in memory before its handler takes them.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same for a whole connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Response bytes that one HTTP/2 stream may have in memory.
const STREAM_SEND_BYTES: usize = 512 << 10;
/// An HTTP/2 client that is silent for so long is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// How long it may take to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy)]
struct CoreExecutor;

impl<F> Executor<F> for CoreExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        runtime::spawn(task);
    }
}

/// Gives hyper the core's timers.
#[derive(Clone, Copy)]
struct CoreTimer;

/// A timer of this thread; hyper asks for `Send`, but nothing of a connection ever leaves its thread.
struct CoreSleep(SendWrapper<LocalFuture<()>>);

impl Future for CoreSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl Sleep for CoreSleep {}

impl Timer for CoreTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(CoreSleep(SendWrapper::new(runtime::sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }
}

fn builder() -> auto::Builder<CoreExecutor> {
    let mut builder = auto::Builder::new(CoreExecutor);
    builder
        .http1()
        .timer(CoreTimer)
        .header_read_timeout(HEAD_SILENCE_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(CoreTimer)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Serves one connection to its end.
///
/// Ends early when the core drains (after what was begun) or is cut, and when no first request comes in time.
pub async fn serve_connection<D, I>(app: App<D>, io: I)
where
    D: Disk,
    I: Read + Write + Unpin + 'static,
{
    let _open = app.drain().open();
    let (mut draining, mut cut) = (app.drain().draining(), app.drain().is_cut());
    let asked = Rc::new(Cell::new(false));
    let seen = asked.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        seen.set(true);
        let app = app.clone();
        async move { Ok::<Response<_>, Infallible>(app.answer(request).await) }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut told = false;
    let mut first_head = runtime::sleep(HEAD_SILENCE_MAX);
    std::future::poll_fn(|cx| {
        if !told && Pin::new(&mut draining).poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        let silent = !asked.get() && first_head.as_mut().poll(cx).is_ready();
        if silent || Pin::new(&mut cut).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // Errors are the client's: it left, or does not speak HTTP. It was told as far as it can be.
        connection.as_mut().poll(cx).map(drop)
    })
    .await;
}
