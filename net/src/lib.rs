//! What binds a core to the outside: the executor behind [`proto::port::runtime`], listening, and signals.
//!
//! * [`runtime`]: [`run`] turns a thread into a core.
//! * [`cores`]: [`run_cores`] does so for all cores of a node, which begin and end together.
//! * [`mailbox`]: calls between the cores of one node.
//! * [`listen`]: sockets for the cores of one server, and the streams that HTTP is served on.
//! * [`signal`]: the request to stop.
//! * [`rpc`]: calls between peers over any [`proto::port::Wire`].
//!
//! Handlers of HTTP requests live in `server`; nothing here knows a protocol above TCP but [`rpc`], which knows no
//! transport.

pub mod cores;
pub mod listen;
pub mod mailbox;
pub mod rpc;
pub mod runtime;
pub mod signal;

pub use cores::run_cores;
pub use listen::{BindError, Listener, Stream, bind};
pub use mailbox::{Cores, MailboxEnd, mailboxes};
pub use runtime::{MonoioRuntime, RunError, cpus, run};
pub use signal::Termination;
