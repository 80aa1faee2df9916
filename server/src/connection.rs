//! One connection: hyper on the core's own executor and timers, HTTP/1.1 and HTTP/2 by prior knowledge.
//!
//! Invariant: every connection ends. One without requests idles out, heads and bodies that stay away time out, a client
//! that does not take its answer is cut off (see `activity`), and draining closes the rest.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::select;
use hyper::body::Incoming;
use hyper::rt::{Executor, Read, Sleep, Timer, Write};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::server::conn::auto;
use proto::limits::{
    CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, CONNECTIONS_REFUSED_MAX, HEAD_SECONDS_MAX, HEADERS_BYTES_MAX,
    HEADERS_MAX, PING_ANSWER_SECONDS_MAX, PING_SECONDS, STREAM_SEND_BYTES_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX,
    STREAMS_RESET_EARLY_MAX, STREAMS_RESET_FOR_ERRORS_MAX, UPLOADS_INFLIGHT_MAX, URI_BYTES_MAX,
};
use proto::port::Disk;
use proto::port::runtime::{self, LocalFuture};
use send_wrapper::SendWrapper;

use crate::activity::{Activity, Deadline, Ending, Serving};
use crate::admission::{Admission, ConnectionId};
use crate::drain::Drain;
use crate::pace::Pace;
use crate::wire::Wire;
use crate::{App, ResponseBody};

/// Bytes of a head beyond which it is not even parsed. Within them, what is too large is refused with an explanation.
const HEAD_BYTES_PARSED_MAX: usize = HEADERS_BYTES_MAX + URI_BYTES_MAX + (32 << 10);
/// The same for the number of headers.
const HEADERS_PARSED_MAX: usize = 2 * HEADERS_MAX;

// An upload that waits for its turn is not read. It must not wait for another of its own connection, nor may its unread
// bytes take the window from one that is served: that one would then never end, and neither would the wait.
const _: () = assert!(STREAMS_MAX as usize <= Admission::share_of(UPLOADS_INFLIGHT_MAX));
const _: () = assert!(CONNECTION_WINDOW_BYTES as u64 >= STREAMS_MAX as u64 * STREAM_WINDOW_BYTES as u64);

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
        // Its clock runs from the end of the request before, and cannot tell an idle client from a slow one.
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_PARSED_MAX)
        .max_headers(HEADERS_PARSED_MAX);
    builder
        .http2()
        .timer(CoreTimer)
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(STREAMS_RESET_EARLY_MAX)
        .max_local_error_reset_streams(STREAMS_RESET_FOR_ERRORS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        .max_header_list_size(HEAD_BYTES_PARSED_MAX as u32)
        .keep_alive_interval(Duration::from_secs(PING_SECONDS))
        .keep_alive_timeout(Duration::from_secs(PING_ANSWER_SECONDS_MAX));
    builder
}

/// Serves one connection to its end.
///
/// Ends early when the core drains (after what was begun) or is cut, and when the client keeps the core waiting. One
/// connection too many is told to come back and closed.
pub async fn serve_connection<D, I>(app: App<D>, io: I)
where
    D: Disk,
    I: Read + Write + Unpin + 'static,
{
    let drain = app.drain().clone();
    let _open = drain.open();
    let welcome = match drain.connections() {
        ..=CONNECTIONS_MAX => true,
        connections if connections - CONNECTIONS_MAX <= CONNECTIONS_REFUSED_MAX => false,
        _ => return,
    };
    let answer = |serving, request| {
        let app = app.clone();
        async move { if welcome { app.answer(serving, request).await } else { app.refuse_connection(serving) } }
    };
    let talk = Talk { drain: &drain, id: app.connection_id(), welcome };
    if let Some(ending) = talk.run(io, answer).await {
        app.count_ending(ending);
    }
}

/// What a conversation needs to know besides its socket.
struct Talk<'a> {
    drain: &'a Drain,
    id: ConnectionId,
    /// Whether the connection may go on after its first answer.
    welcome: bool,
}

impl Talk<'_> {
    /// Lets hyper talk over `io` and has requests answered by `answer`. Returns why the conversation was ended, if the
    /// client did not end it.
    async fn run<I, F>(self, io: I, answer: impl Fn(Serving, Request<Incoming>) -> F) -> Option<Ending>
    where
        I: Read + Write + Unpin + 'static,
        F: Future<Output = Response<ResponseBody>> + 'static,
    {
        let activity = Rc::new(Activity::new(self.id));
        let wire = Wire::new(io, activity.clone());
        let asked = Cell::new(false);
        let service = service_fn(|request: Request<Incoming>| {
            asked.set(true);
            if request.version() == Version::HTTP_2 {
                activity.speaks_http2();
            }
            let answered = answer(activity.begin(), request);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let builder = builder();
        let mut connection = pin!(builder.serve_connection(wire.clone(), service));
        let (mut draining, mut cut) = (self.drain.draining(), self.drain.is_cut());
        let mut alarm = Alarm::default();
        // Since when the connection only ends what it began, and whether it does because it idled.
        let mut closing: Option<(Duration, bool)> = None;
        let ended = std::future::poll_fn(|cx| {
            if Pin::new(&mut cut).poll(cx).is_ready() {
                return Poll::Ready(Outcome::Cut(None));
            }
            loop {
                // Errors are the client's: it left, or does not speak HTTP. It was told as far as it can be.
                if connection.as_mut().poll(cx).is_ready() {
                    let idled = closing.is_some_and(|(_, idled)| idled);
                    return Poll::Ready(Outcome::Ended(idled.then_some(Ending::Idle)));
                }
                let mut deadline = activity.deadline();
                if let (Some(Deadline { at, ending: Ending::Idle }), Some((since, _))) = (&mut deadline, closing) {
                    *at = since + Duration::from_secs(HEAD_SECONDS_MAX);
                }
                let drained = closing.is_none()
                    && (Pin::new(&mut draining).poll(cx).is_ready() || (asked.get() && !self.welcome));
                let idled = match alarm.poll(cx, deadline.map(|deadline| deadline.at)) {
                    Poll::Pending => false,
                    Poll::Ready(()) => match deadline.map(|deadline| deadline.ending) {
                        Some(Ending::Idle) if closing.is_none() => true,
                        ending => return Poll::Ready(Outcome::Cut(ending)),
                    },
                };
                if closing.is_some() || !(drained || idled) {
                    return Poll::Pending;
                }
                closing = Some((runtime::monotonic(), idled));
                connection.as_mut().graceful_shutdown();
            }
        })
        .await;
        match ended {
            Outcome::Cut(ending) => ending,
            Outcome::Ended(ending) => {
                select(pin!(wire.linger()), self.drain.draining()).await;
                ending
            }
        }
    }
}

/// How a conversation ended, and why if the server ended it.
enum Outcome {
    /// In order, or by the client.
    Ended(Option<Ending>),
    /// Where it was.
    Cut(Option<Ending>),
}

/// A timer whose time may change whenever it is looked at.
#[derive(Default)]
struct Alarm(Option<(Duration, LocalFuture<()>)>);

impl Alarm {
    /// Ready if the time is `at` or later. Also has the caller look again once in a while: whatever of an HTTP/2
    /// connection happens in a task of its own does not wake the connection.
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Duration>) -> Poll<()> {
        loop {
            let now = runtime::monotonic();
            if at.is_some_and(|at| at <= now) {
                return Poll::Ready(());
            }
            let wanted = at.unwrap_or(now + Pace::WINDOW).min(now + Pace::WINDOW);
            let armed = match self.0.take() {
                Some((armed_at, armed)) if armed_at <= wanted => (armed_at, armed),
                _ => (wanted, runtime::sleep(wanted - now)),
            };
            let (_, sleep) = self.0.insert(armed);
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => self.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use bytes::Bytes;
    use futures_util::{StreamExt, stream};

    use super::*;
    use crate::metrics::{Call, Metrics};
    use crate::rest::{Held, RequestBody, next_bytes};
    use crate::testing::{self, Client, socket};

    const SECOND: Duration = Duration::from_secs(1);
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: dfs\r\n\r\n";
    /// More than sockets and windows hold.
    const LARGE_BYTES: u64 = 4 << 20;

    /// Serves `GET` with [`LARGE_BYTES`] bytes and everything else with its body's length, as `App` does.
    async fn respond(serving: Serving, request: Request<Incoming>) -> Response<ResponseBody> {
        let observation = Rc::new(Metrics::default()).observe(Call { method: "GET", route: "test" });
        let version = request.version();
        let held = |response: Response<ResponseBody>| {
            response.map(|body| body.holding(Held { observation, serving, slot: None, version }))
        };
        if request.method() == hyper::Method::GET {
            let parts = stream::repeat_with(|| Ok(Bytes::from(vec![7; 64 << 10])));
            return held(Response::new(ResponseBody::file(parts.boxed_local(), LARGE_BYTES)));
        }
        let mut body = RequestBody::new(request.into_body());
        let mut bytes = 0;
        loop {
            match next_bytes(&mut body).await {
                Ok(Some(more)) => bytes += more.len(),
                Ok(None) => return held(Response::new(ResponseBody::whole(bytes.to_string()))),
                Err(error) => return held(error.into_response()),
            }
        }
    }

    /// What came of a conversation, and when.
    type Ended = Rc<RefCell<Option<(Option<Ending>, Duration)>>>;

    /// Starts a conversation with a client whose socket holds 64 KiB in each direction.
    fn connect(drain: &Drain) -> (Client, Ended) {
        connect_to(drain, respond)
    }

    /// The same with other answers.
    fn connect_to<F>(drain: &Drain, respond: impl Fn(Serving, Request<Incoming>) -> F + 'static) -> (Client, Ended)
    where
        F: Future<Output = Response<ResponseBody>> + 'static,
    {
        let (client, io) = socket(64 << 10);
        let ended = Ended::default();
        let (tell, drain) = (ended.clone(), drain.clone());
        runtime::spawn(async move {
            let talk = Talk { drain: &drain, id: ConnectionId(1), welcome: true };
            let ending = talk.run(io, respond).await;
            *tell.borrow_mut() = Some((ending, runtime::monotonic()));
        });
        (client, ended)
    }

    async fn outcome(ended: &Ended) -> (Option<Ending>, Duration) {
        loop {
            if let Some(outcome) = *ended.borrow() {
                return outcome;
            }
            runtime::sleep(SECOND).await;
        }
    }

    #[test]
    fn a_head_that_trickles_in_is_cut_off() {
        testing::run(async || {
            let (client, ended) = connect(&Drain::new());
            runtime::sleep(5 * SECOND).await;
            for byte in &GET[..GET.len() - 2] {
                client.send(&[*byte]).await;
                runtime::sleep(SECOND).await;
            }
            let (ending, at) = outcome(&ended).await;
            assert_eq!((ending, at), (Some(Ending::SlowHead), 15 * SECOND));
        });
    }

    #[test]
    fn a_connection_without_requests_is_closed_in_good_order() {
        testing::run(async || {
            let (client, ended) = connect(&Drain::new());
            client.send(b"PUT / HTTP/1.1\r\nhost: dfs\r\ncontent-length: 5\r\n\r\nhello").await;
            let answer = client.receive_until(b"\r\n\r\n5").await;
            assert!(answer.starts_with(b"HTTP/1.1 200"));
            runtime::sleep(59 * SECOND).await;
            client.send(b"PUT / HTTP/1.1\r\nhost: dfs\r\ncontent-length: 2\r\n\r\nhi").await;
            assert!(client.receive_until(b"\r\n\r\n2").await.starts_with(b"HTTP/1.1 200"));
            assert_eq!(client.receive_all().await, b"", "closed, not broken");
            client.close();
            let (ending, at) = outcome(&ended).await;
            assert_eq!((ending, at.as_secs()), (Some(Ending::Idle), 119));
        });
    }

    #[test]
    fn a_body_that_trickles_in_is_answered_with_408_and_one_that_pauses_is_not() {
        testing::run(async || {
            let (client, _ended) = connect(&Drain::new());
            let head = b"PUT / HTTP/1.1\r\nhost: dfs\r\ncontent-length: 100000\r\n\r\n";
            client.send(head).await;
            for _ in 0..5 {
                client.send(&[1; 20_000]).await;
                runtime::sleep(55 * SECOND).await;
            }
            assert!(client.receive_until(b"\r\n\r\n100000").await.starts_with(b"HTTP/1.1 200"));
            client.send(head).await;
            let start = runtime::monotonic();
            let trickle = async {
                loop {
                    client.send(&[1; 10]).await;
                    runtime::sleep(SECOND).await;
                }
            };
            let answered = client.receive_until(b"}\n");
            let answer = select(pin!(answered), pin!(trickle)).await.factor_first().0;
            assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
            assert_eq!(runtime::monotonic() - start, Pace::WINDOW);
        });
    }

    #[test]
    fn a_reader_who_takes_nothing_is_cut_off_and_a_slow_one_is_served() {
        testing::run(async || {
            let (client, ended) = connect(&Drain::new());
            client.send(GET).await;
            let (ending, at) = outcome(&ended).await;
            assert_eq!((ending, at), (Some(Ending::SlowReader), Pace::WINDOW));
            drop(client);

            let (client, _ended) = connect(&Drain::new());
            client.send(GET).await;
            let head = client.receive_until(b"\r\n\r\n").await;
            let mut left =
                LARGE_BYTES as usize - (head.len() - head.windows(4).position(|w| w == b"\r\n\r\n").unwrap() - 4);
            while left > 0 {
                runtime::sleep(20 * SECOND).await;
                let taken = client.receive(left.min(16 << 10)).await.len();
                assert!(taken > 0, "the connection broke with {left} bytes to go");
                left -= taken;
            }
        });
    }

    #[test]
    fn an_http2_reader_who_opens_no_window_is_cut_off() {
        testing::run(async || {
            let (client, ended) = connect(&Drain::new());
            client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
            // Settings, then the head of a GET from the static table; the windows stay at their 65,535 bytes.
            client.send(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            client.send(&[0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84]).await;
            let reading = async {
                while !client.receive(1 << 20).await.is_empty() {}
                std::future::pending().await
            };
            let ended = select(pin!(outcome(&ended)), pin!(reading)).await.factor_first().0;
            assert_eq!(ended.0, Some(Ending::SlowReader));
            assert!(ended.1 >= Pace::WINDOW && ended.1 <= 2 * Pace::WINDOW + SECOND, "{:?}", ended.1);
        });
    }

    #[test]
    fn http2_requests_that_are_not_read_take_no_window_from_one_that_is() {
        testing::run(async || {
            let (client, _ended) = connect_to(&Drain::new(), async |serving, request: Request<Incoming>| {
                if request.method() == hyper::Method::POST {
                    return std::future::pending().await;
                }
                respond(serving, request).await
            });
            client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
            // The windows are the server's as soon as each has agreed to the settings of the other.
            let agreed = frame(4, 1, 0, &[]);
            client.send(&frame(4, 0, 0, &[])).await;
            client.receive_until(&agreed).await;
            client.send(&agreed).await;
            // As much of each request as its own window holds: all but the last of POST, that one of PUT, and only that
            // one ends.
            let streams: Vec<u32> = (0..STREAMS_MAX).map(|at| 2 * at + 1).collect();
            let (put, posts) = streams.split_last().unwrap();
            for stream in &streams {
                let fields: &[u8] = if stream == put { b"\x02\x03PUT\x86\x84" } else { b"\x83\x86\x84" };
                client.send(&frame(1, 4, *stream, fields)).await;
            }
            for stream in posts.iter().chain([put]) {
                for at in 1..=STREAM_WINDOW_BYTES / FRAME_BYTES {
                    let last = stream == put && at == STREAM_WINDOW_BYTES / FRAME_BYTES;
                    client.send(&frame(0, u8::from(last), *stream, &[7; FRAME_BYTES as usize])).await;
                }
            }
            let length = STREAM_WINDOW_BYTES.to_string();
            let answer = client.receive_until(length.as_bytes()).await;
            assert!(answer.ends_with(length.as_bytes()), "{answer:?}");
            assert_eq!(runtime::monotonic(), Duration::ZERO, "it waited for nothing");
        });
    }

    /// Bytes of an HTTP/2 frame, at most.
    const FRAME_BYTES: u32 = 16 << 10;

    /// An HTTP/2 frame.
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn a_client_that_is_still_sending_reads_its_answer() {
        testing::run(async || {
            let (client, _ended) = connect(&Drain::new());
            client.send(b"GET / HTTP/1.1\r\nhost: dfs\r\nconnection: close\r\ncontent-length: 1000000\r\n\r\n").await;
            let sending = async { client.send(&vec![1; 1_000_000]).await };
            let receiving = client.receive_all();
            let (_, answer) = futures_util::future::join(sending, receiving).await;
            assert!(answer.starts_with(b"HTTP/1.1 200") && answer.len() as u64 > LARGE_BYTES, "{}", answer.len());
        });
    }
}
