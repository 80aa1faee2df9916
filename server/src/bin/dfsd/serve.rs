//! The path of a start and a stop.
//!
//! ```text
//!   lock directories → listen → key file, token → storage ring → node (format or recover) → ready
//!   signal → stop accepting → requests under way finish, or are cut → close the node → exit
//! ```
//!
//! A crash anywhere is harmless: the key file exists before anything is encrypted with it, and the node's own start is
//! safe to interrupt.

use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::future::{Either, select};
use net::{BindError, Listener, Termination};
use node::{Node, NodeOptions, OpenReport};
use nvme::{Ring, RingDisk, RingOptions};
use proto::port::{Disk, runtime};
use server::App;
use server::connection::serve_connection;
use server::drain::Drain;

use crate::cli::{Cores, ServeOptions};
use crate::data_dir::{self, DataDir};
use crate::{keys, portable, token};

/// Connections of a core; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
/// How long requests under way may go on after the signal to stop.
const DRAIN_MAX: Duration = Duration::from_secs(8);
/// How long connections may take to notice that they are cut.
const CUT_MAX: Duration = Duration::from_millis(300);
/// How long the node may take to close. Nothing acknowledged depends on it; the next start is quicker for it.
const CLOSE_MAX: Duration = Duration::from_millis(1200);
/// How often, and how far apart, a port that is taken is tried: two seconds in all.
const BIND_ATTEMPTS_MAX: u32 = 100;
const BIND_PAUSE: Duration = Duration::from_millis(20);
/// How long to wait when no connection can be accepted for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until a signal asks to stop.
pub(crate) fn serve(options: &ServeOptions) -> anyhow::Result<()> {
    let directories = data_dir::claim(&options.data)?;
    let socket = bind(options.listen)?;
    if !options.listen.ip().is_loopback() {
        eprintln!(
            "warning: {} is reachable from other machines, and the protocol is plain HTTP: whoever sees the traffic \
             has the token and the data; use a loopback address behind a proxy that speaks TLS",
            options.listen
        );
    }
    let cpu = match options.cores {
        Cores::Unpinned => None,
        Cores::Pinned(cpu) => Some(cpu),
    };
    net::run(cpu, async || on_core(options, &directories, socket).await)?
}

/// Binds the address, waiting a moment for it: the kernel gives the port of a killed process back only after its rings.
fn bind(listen: std::net::SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    for attempt in 1.. {
        match net::bind(listen, 1) {
            Ok(mut sockets) => return Ok(sockets.pop().expect("invariant: a socket for the core")),
            Err(BindError::InUse { .. }) if attempt < BIND_ATTEMPTS_MAX => pause(),
            Err(error) => return Err(anyhow!("{error}; choose another --listen")),
        }
    }
    unreachable!("invariant: the last attempt returns")
}

#[expect(clippy::disallowed_methods, reason = "no core runs yet")]
fn pause() {
    std::thread::sleep(BIND_PAUSE);
}

/// Everything that happens on the core.
async fn on_core(options: &ServeOptions, directories: &[DataDir], socket: std::net::TcpListener) -> anyhow::Result<()> {
    let mut termination = Termination::install().context("cannot wait for signals")?;
    let first = &directories[0].path;
    let key_file = options.key_file.clone().unwrap_or_else(|| first.join("keys"));
    let keys = keys::open(&key_file, directories)?;
    let (token, token_path) = token::open(first)?;
    let ring = Ring::new(RingOptions::default())?;
    let mut disks = Vec::with_capacity(directories.len());
    for directory in directories {
        let opened = RingDisk::open(&ring, &directory.path);
        disks.push(opened.with_context(|| format!("cannot open {}", directory.path.display()))?);
    }
    let opening = pin!(Node::open(NodeOptions::new(disks, Arc::new(keys))));
    let (node, report) = match select(opening, pin!(termination.requested())).await {
        Either::Left((opened, _)) => opened.map_err(|error| portable(&error))?,
        Either::Right(_) => {
            eprintln!("stopped before serving");
            return Ok(());
        }
    };
    tell(&report);

    let drain = Drain::new();
    let app = App::new(node.clone(), directories.len(), token, drain.clone());
    let listener = Listener::new(socket).context("cannot listen")?;
    let address = listener.local_addr().context("cannot listen")?;
    let OpenReport { incarnation, segments, chunks, .. } = report;
    let mut stdout = std::io::stdout();
    // Nobody reading it is no reason not to serve.
    let _ = writeln!(
        stdout,
        "dfsd ready: http://{address} (token in {}, incarnation {incarnation}, {segments} segments, {chunks} chunks)",
        token_path.display()
    );
    let _ = stdout.flush();

    // The listening socket closes with the future that owns it, at the end of this block.
    {
        let accepting = pin!(accept(listener, &app, &drain));
        select(accepting, pin!(termination.requested())).await;
    }
    runtime::spawn(async move {
        termination.requested().await;
        eprintln!("stopped at once by a second signal");
        std::process::exit(1);
    });
    stop(&drain, &node).await
}

/// Tells the operator what the start found.
fn tell(report: &OpenReport) {
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    if report.formatted {
        eprintln!("formatted the data directories");
    }
    eprintln!(
        "warning: redundancy 1+0: every byte is on one disk only, and is lost with it; keep a copy of what matters \
         elsewhere"
    );
}

/// Accepts connections for ever.
async fn accept<D: Disk>(listener: Listener, app: &App<D>, drain: &Drain) -> std::convert::Infallible {
    let mut failing = false;
    loop {
        drain.at_most(CONNECTIONS_MAX - 1).await;
        match listener.accept().await {
            Ok((stream, _peer)) => {
                failing = false;
                runtime::spawn(serve_connection(app.clone(), stream));
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    eprintln!("warning: connections cannot be accepted for now: {error}");
                }
                runtime::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Completes with `None` if `future` takes longer than `longest`.
async fn within<T>(longest: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), runtime::sleep(longest)).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

/// Lets requests finish, then closes the node.
async fn stop<D: Disk>(drain: &Drain, node: &Node<D>) -> anyhow::Result<()> {
    eprintln!("stopping: {} connections are open", drain.connections());
    drain.drain();
    if within(DRAIN_MAX, drain.at_most(0)).await.is_none() {
        eprintln!("cutting {} connections that took too long", drain.connections());
        drain.cut();
        // Those that do not even notice end with the process.
        let _ = within(CUT_MAX, drain.at_most(0)).await;
    }
    match within(CLOSE_MAX, node.close()).await {
        Some(closed) => closed.map_err(|error| portable(&error)).context("the node did not close cleanly")?,
        None => eprintln!("warning: closing took too long; nothing is lost, but the next start scans more"),
    }
    eprintln!("stopped");
    Ok(())
}
