//! A runtime for tests of timeouts: when nothing is left to do, time jumps to the next timer. And sockets in memory.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use proto::port::runtime::{self, Clock, Entropy, LocalFuture, Spawn};

/// Tells that something is ready; everything is then polled.
#[derive(Default)]
struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Jumping {
    now: Cell<Duration>,
    /// Who waits for when; a number tells equal times apart.
    timers: RefCell<BTreeMap<(Duration, u64), Waker>>,
    counter: Cell<u64>,
    spawned: RefCell<Vec<LocalFuture<()>>>,
}

struct Shared(Rc<Jumping>);

impl Clock for Shared {
    fn monotonic(&self) -> Duration {
        self.0.now.get()
    }

    fn unix_ns(&self) -> u64 {
        self.0.now.get().as_nanos() as u64
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<()> {
        let runtime = self.0.clone();
        let number = runtime.counter.replace(runtime.counter.get() + 1);
        let at = runtime.now.get() + duration;
        Box::pin(std::future::poll_fn(move |cx| {
            if runtime.now.get() >= at {
                return Poll::Ready(());
            }
            runtime.timers.borrow_mut().insert((at, number), cx.waker().clone());
            Poll::Pending
        }))
    }
}

impl Entropy for Shared {
    fn fill(&self, out: &mut [u8]) {
        out.fill(7);
    }
}

impl Spawn for Shared {
    fn spawn(&self, task: LocalFuture<()>) {
        self.0.spawned.borrow_mut().push(task);
    }
}

/// Runs `main` to its end, and what it spawns until then.
///
/// # Panics
/// If everybody waits and no timer is set.
pub(crate) fn run<T>(main: impl AsyncFnOnce() -> T) -> T {
    let jumping = Rc::new(Jumping::default());
    let _entered = runtime::enter(Rc::new(Shared(jumping.clone())));
    let ready = Arc::new(Ready::default());
    let waker = Waker::from(ready.clone());
    let mut cx = Context::from_waker(&waker);
    let mut main = pin!(main());
    let mut tasks: Vec<LocalFuture<()>> = Vec::new();
    loop {
        ready.0.store(false, Ordering::Relaxed);
        if let Poll::Ready(done) = main.as_mut().poll(&mut cx) {
            return done;
        }
        tasks.retain_mut(|task| task.as_mut().poll(&mut cx).is_pending());
        let spawned = std::mem::take(&mut *jumping.spawned.borrow_mut());
        if !spawned.is_empty() {
            tasks.extend(spawned);
            continue;
        }
        if !ready.0.load(Ordering::Relaxed) {
            let next = jumping.timers.borrow_mut().pop_first();
            let ((at, _), _) = next.expect("everybody waits for something that never comes");
            jumping.now.set(jumping.now.get().max(at));
        }
    }
}

/// One direction of a socket.
#[derive(Default)]
struct Direction {
    bytes: VecDeque<u8>,
    capacity: usize,
    closed: bool,
}

impl Direction {
    fn put(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let fit = bytes.len().min(self.capacity - self.bytes.len());
        self.bytes.extend(&bytes[..fit]);
        if fit == 0 && !bytes.is_empty() { Poll::Pending } else { Poll::Ready(Ok(fit)) }
    }

    /// Nothing is the end.
    fn take(&mut self, most: usize) -> Poll<Vec<u8>> {
        if self.bytes.is_empty() && !self.closed {
            return Poll::Pending;
        }
        let fit = most.min(self.bytes.len());
        Poll::Ready(self.bytes.drain(..fit).collect())
    }
}

type Both = Rc<RefCell<[Direction; 2]>>;

/// The server's end of a socket.
pub(crate) struct ServerEnd(Both);

/// The client's end of a socket; closed when dropped.
pub(crate) struct Client(Both);

/// Makes a socket that holds `capacity` bytes in each direction.
pub(crate) fn socket(capacity: usize) -> (Client, ServerEnd) {
    let direction = || Direction { capacity, ..Direction::default() };
    let both = Rc::new(RefCell::new([direction(), direction()]));
    (Client(both.clone()), ServerEnd(both))
}

/// Has everybody polled again who may wait for `done`. This runtime polls all for every wake.
fn moved<T>(cx: &Context<'_>, done: Poll<T>) -> Poll<T> {
    if done.is_ready() {
        cx.waker().wake_by_ref();
    }
    done
}

impl Read for ServerEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let taken = self.0.borrow_mut()[0].take(out.remaining());
        moved(cx, taken).map(|bytes| {
            out.put_slice(&bytes);
            Ok(())
        })
    }
}

impl Write for ServerEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let put = self.0.borrow_mut()[1].put(bytes);
        moved(cx, put)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut()[1].closed = true;
        moved(cx, Poll::Ready(Ok(())))
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.0.borrow_mut().iter_mut().for_each(|direction| direction.closed = true);
    }
}

impl Client {
    /// Sends all of `bytes`, unless the server closes the socket.
    pub(crate) async fn send(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = std::future::poll_fn(|cx| moved(cx, self.0.borrow_mut()[0].put(bytes))).await;
            let Ok(sent) = sent else { return };
            bytes = &bytes[sent..];
        }
    }

    /// Receives up to `most` bytes; none at the end.
    pub(crate) async fn receive(&self, most: usize) -> Vec<u8> {
        std::future::poll_fn(|cx| moved(cx, self.0.borrow_mut()[1].take(most))).await
    }

    /// Receives until `mark` was seen, or the end.
    pub(crate) async fn receive_until(&self, mark: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        while !all.windows(mark.len()).any(|window| window == mark) {
            let more = self.receive(64 << 10).await;
            if more.is_empty() {
                break;
            }
            all.extend(more);
        }
        all
    }

    /// Receives until the end.
    pub(crate) async fn receive_all(&self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let more = self.receive(64 << 10).await;
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    /// Sends no more.
    pub(crate) fn close(&self) {
        self.0.borrow_mut()[0].closed = true;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.borrow_mut().iter_mut().for_each(|direction| direction.closed = true);
    }
}
