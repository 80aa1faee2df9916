//! From a request to its response.

mod auth;
mod body;
mod change;
mod condition;
mod date;
mod error;
mod events;
mod gc;
mod headers;
mod idempotency;
mod object;
mod query;
mod range;
mod read;
mod retention;
mod route;
mod status;
mod text;
mod versions;
mod write;

use std::cell::Cell;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use net::Cores;
use node::{Node, Target};
use proto::limits::{HEADERS_BYTES_MAX, HEADERS_MAX, INLINE_BYTES_MAX, REQUESTS_INFLIGHT_MAX, URI_BYTES_MAX};
use proto::port::Disk;

pub use auth::Token;
#[cfg(test)]
pub(crate) use body::next_bytes;
pub use body::{BodyError, ResponseBody};
pub(crate) use body::{Held, RequestBody};
use error::ApiError;
use events::Watchers;
use idempotency::KeysInUse;
use query::Query;
use route::{Resource, Route};

use crate::Peer;
use crate::activity::{Ending, Serving};
use crate::admission::{ConnectionId, Slot};
use crate::drain::Drain;
use crate::metrics::Call;

struct Inner<D: Disk> {
    node: Node<D>,
    /// Data directories.
    devices: usize,
    token: Token,
    cores: Cores<Peer>,
    /// This core.
    peer: Rc<Peer>,
    keys_in_use: KeysInUse,
    watchers: Watchers,
    next_connection: Cell<u64>,
    /// Whether the failure of the metadata log was written to standard error.
    failure_reported: Cell<bool>,
}

/// The REST interface of one core. Handles are cheap to clone.
pub struct App<D: Disk>(Rc<Inner<D>>);

impl<D: Disk> Clone for App<D> {
    fn clone(&self) -> Self {
        App(self.0.clone())
    }
}

/// What a handler makes of a request.
type Answer = Result<Response<ResponseBody>, ApiError>;

impl<D: Disk> App<D> {
    /// Serves one core of a `node` that has `devices` data directories to whoever presents `token`, until the drain of
    /// `peer`, which is this core, ends it.
    #[must_use]
    pub fn new(node: Node<D>, devices: usize, token: Token, cores: Cores<Peer>, peer: Rc<Peer>) -> App<D> {
        App(Rc::new(Inner {
            node,
            devices,
            token,
            cores,
            peer,
            keys_in_use: KeysInUse::default(),
            watchers: Watchers::default(),
            next_connection: Cell::new(0),
            failure_reported: Cell::new(false),
        }))
    }

    pub(crate) fn drain(&self) -> &Drain {
        &self.0.peer.drain
    }

    /// A number for a new connection.
    pub(crate) fn connection_id(&self) -> ConnectionId {
        ConnectionId(self.0.next_connection.replace(self.0.next_connection.get() + 1))
    }

    /// Counts a connection that was ended.
    pub(crate) fn count_ending(&self, ending: Ending) {
        self.0.peer.metrics.ended(ending);
    }

    /// Answers the first request of a connection that is one too many.
    pub(crate) fn refuse_connection(&self, serving: Serving) -> Response<ResponseBody> {
        self.0.peer.metrics.connection_refused();
        let mut response = ApiError::too_many_connections().into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        drop(serving);
        response
    }

    /// Answers one request. Never fails: what goes wrong is an answer too.
    pub(crate) async fn answer(&self, serving: Serving, request: Request<Incoming>) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        let mut body = RequestBody::new(body);
        let route = Route::of(head.uri.path());
        let mut observation =
            self.0.peer.metrics.observe(Call { method: method_label(&head.method), route: route.label() });
        let mut slot = None;
        let mut response = match self.dispatch(route, &head, &mut body, &serving, &mut slot).await {
            Ok(response) => response,
            Err(error) => {
                // What it waited for is not needed to be refused.
                slot = None;
                if error.is_poisoned() && !self.0.failure_reported.replace(true) {
                    crate::report!("error: {}", error.message);
                }
                // A client that asked before sending has not sent; any other must get to read the refusal.
                if !head.headers.contains_key(EXPECT) {
                    body::discard(&mut body).await;
                }
                error.into_response()
            }
        };
        observation.answered(response.status().as_u16());
        if head.method == Method::HEAD {
            without_body(&mut response);
        }
        // What is left of the body is not read, so no request can follow it on this connection. Nor may one that follows
        // chunks: whoever forwarded them may have gone by a Content-Length that hyper has dropped, as it should, and what
        // follows may then be part of this body.
        let is_last = !body.is_at_end() || head.headers.contains_key(TRANSFER_ENCODING);
        if is_last && head.version != Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|body| body.holding(Held { observation, serving, slot, version: head.version }))
    }

    /// Waits until a request may have the memory that it needs; metadata needs none to speak of.
    ///
    /// # Errors
    /// 429 `busy`.
    async fn admit(&self, resource: &Resource, head: &Parts, serving: &Serving) -> Result<Option<Slot>, ApiError> {
        let query = head.uri.query().unwrap_or_default();
        let admission = match (resource, &head.method) {
            (Resource::Files, &Method::POST) | (Resource::Path(_), &Method::PUT) if !is_short(head) => {
                &self.0.peer.uploads
            }
            (Resource::File(_) | Resource::Path(_), &Method::GET) if query != "stat" => &self.0.peer.downloads,
            _ => return Ok(None),
        };
        admission.enter(serving.connection()).await.map(Some).map_err(|_| ApiError::busy())
    }

    async fn dispatch(
        &self,
        route: Route<'_>,
        head: &Parts,
        body: &mut RequestBody,
        serving: &Serving,
        slot: &mut Option<Slot>,
    ) -> Answer {
        check_head(head)?;
        let read = matches!(head.method, Method::GET | Method::HEAD);
        match &route {
            Route::Health | Route::Ready | Route::Metrics if !read => {
                return Err(ApiError::method_not_allowed("GET, HEAD"));
            }
            Route::Health => return Ok(self.health()),
            Route::Ready => return self.ready().await,
            Route::Metrics => return self.metrics_page().await,
            _ => auth::check(&head.headers, &self.0.token)?,
        }
        if self.0.peer.metrics.requests_inflight() > REQUESTS_INFLIGHT_MAX {
            return Err(ApiError::busy());
        }
        let query = Query::parse(head.uri.query())?;
        let resource = route.resource()?;
        *slot = self.admit(&resource, head, serving).await?;
        match resource {
            Resource::Stats if read => {
                query.finish()?;
                self.stats().await
            }
            Resource::Stats => Err(ApiError::method_not_allowed("GET, HEAD")),
            Resource::Gc if read => {
                query.finish()?;
                self.gc_status().await
            }
            Resource::Gc => Err(ApiError::method_not_allowed("GET, HEAD")),
            Resource::GcRun if head.method == Method::POST => self.run_gc(query).await,
            Resource::GcRun => Err(ApiError::method_not_allowed("POST")),
            Resource::Events if head.method == Method::GET => self.events(query, head).await,
            Resource::Events => Err(ApiError::method_not_allowed("GET")),
            Resource::Files if head.method == Method::POST => {
                query.finish()?;
                self.post_file(head, body).await
            }
            Resource::Files => Err(ApiError::method_not_allowed("POST")),
            Resource::File(id) => {
                let target = Target::Id(id);
                match head.method {
                    Method::GET | Method::HEAD => self.get(&target, query, head).await,
                    Method::DELETE => self.delete(&target, query, head).await,
                    _ => Err(ApiError::method_not_allowed("GET, HEAD, DELETE")),
                }
            }
            Resource::Path(path) => match head.method {
                Method::GET | Method::HEAD => self.get(&Target::Path(path), query, head).await,
                Method::PUT => self.put(path, query, head, body).await,
                Method::PATCH => self.patch(&path, query, head).await,
                Method::POST => self.post(&path, query, head).await,
                Method::DELETE => self.delete(&Target::Path(path), query, head).await,
                _ => Err(ApiError::method_not_allowed("GET, HEAD, PUT, PATCH, POST, DELETE")),
            },
        }
    }
}

/// Whether a request says that its body fits in with the metadata.
fn is_short(head: &Parts) -> bool {
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    length.is_some_and(|length| length <= INLINE_BYTES_MAX)
}

/// Checks what every request must keep to.
///
/// # Errors
/// 414 `uri_too_long`, 431 `headers_too_large`, 400 `bad_header` for HTTP/1.1 without exactly one `Host`.
fn check_head(head: &Parts) -> Result<(), ApiError> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > URI_BYTES_MAX {
        return Err(ApiError::uri_too_long());
    }
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head.headers.len() > HEADERS_MAX || bytes > HEADERS_BYTES_MAX {
        return Err(ApiError::headers_too_large());
    }
    if head.version == Version::HTTP_11 && head.headers.get_all(HOST).iter().count() != 1 {
        return Err(ApiError::bad_header("host", "HTTP/1.1 sends it exactly once"));
    }
    Ok(())
}

/// Takes the body off the answer to a `HEAD`, which keeps the length that a `GET` would have had.
fn without_body(response: &mut Response<ResponseBody>) {
    let bytes = response.body().len().expect("invariant: only a GET is answered with an open stream");
    let bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from(bytes));
    }
    *response.body_mut() = ResponseBody::empty();
}

/// The answer with `value` as JSON.
fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<ResponseBody> {
    let mut text = serde_json::to_vec(value).expect("invariant: our own shapes are JSON");
    text.push(b'\n');
    let mut response = Response::new(ResponseBody::whole(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
