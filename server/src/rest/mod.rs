//! From a request to its response.

mod auth;
mod body;
mod change;
mod condition;
mod date;
mod error;
mod events;
mod headers;
mod idempotency;
mod object;
mod query;
mod range;
mod read;
mod route;
mod status;
mod text;
mod versions;
mod write;

use std::cell::Cell;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use net::Cores;
use node::{Node, Target};
use proto::port::Disk;

pub use auth::Token;
pub use body::{BodyError, ResponseBody};
use error::ApiError;
use events::Watchers;
use idempotency::KeysInUse;
use query::Query;
use route::{Resource, Route};

use crate::Peer;
use crate::drain::Drain;
use crate::metrics::{Call, Metrics};

/// Requests that a core serves at the same time; more are told to come back.
const REQUESTS_INFLIGHT_MAX: u64 = 1024;

struct Inner<D: Disk> {
    node: Node<D>,
    /// Data directories.
    devices: usize,
    token: Token,
    cores: Cores<Peer>,
    drain: Drain,
    metrics: Rc<Metrics>,
    keys_in_use: KeysInUse,
    watchers: Watchers,
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
    pub fn new(node: Node<D>, devices: usize, token: Token, cores: Cores<Peer>, peer: &Peer) -> App<D> {
        let metrics = Rc::new(Metrics::default());
        let drain = peer.drain().clone();
        let (keys_in_use, watchers) = (KeysInUse::default(), Watchers::default());
        let failure_reported = Cell::new(false);
        App(Rc::new(Inner { node, devices, token, cores, drain, metrics, keys_in_use, watchers, failure_reported }))
    }

    pub(crate) fn drain(&self) -> &Drain {
        &self.0.drain
    }

    /// Answers one request. Never fails: what goes wrong is an answer too.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let (head, mut body) = request.into_parts();
        let route = Route::of(head.uri.path());
        let mut observation = self.0.metrics.observe(Call { method: method_label(&head.method), route: route.label() });
        let mut response = match self.dispatch(route, &head, &mut body).await {
            Ok(response) => response,
            Err(error) => {
                if error.is_poisoned() && !self.0.failure_reported.replace(true) {
                    eprintln!("error: {}", error.message);
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
        response.map(|body| body.observed(observation))
    }

    async fn dispatch(&self, route: Route<'_>, head: &Parts, body: &mut Incoming) -> Answer {
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
        if self.0.metrics.requests_inflight() > REQUESTS_INFLIGHT_MAX {
            return Err(ApiError::busy());
        }
        let query = Query::parse(head.uri.query())?;
        match route.resource()? {
            Resource::Stats if read => {
                query.finish()?;
                self.stats().await
            }
            Resource::Stats => Err(ApiError::method_not_allowed("GET, HEAD")),
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
