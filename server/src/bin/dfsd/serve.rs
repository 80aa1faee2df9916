//! The path of a start and a stop.
//!
//! ```text
//!   lock directories → listen → on every core: storage ring
//!     first core:  key file, token → devices and metadata (format or recover) → plan ─▶ all cores
//!     every core:  its segments recovered → serve            first core: ready, once all are
//!   signal → on every core: stop accepting → requests under way finish, or are cut
//!          → first core: close the node → exit
//! ```
//!
//! A crash anywhere is harmless: the key file exists before anything is encrypted with it, and the node's own start is
//! safe to interrupt.

use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use chunk::KeyRing;
use futures_channel::oneshot;
use futures_util::future::{Either, join_all, select};
use net::{BindError, Cores, Listener, Termination};
use node::{CoreEnds, Node, NodeOptions, OpenReport, StartPlan};
use nvme::{Ring, RingDisk, RingOptions};
use proto::CoreId;
use proto::port::{Deadline, Disk, runtime};
use server::connection::serve_connection;
use server::{App, Peer, Token};

use crate::cli::ServeOptions;
use crate::data_dir::{self, DataDir};
use crate::{keys, open_files, portable, token};

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

/// What all cores need and the first one makes.
#[derive(Clone)]
struct Shared {
    plan: StartPlan,
    keys: Arc<KeyRing>,
    token: Token,
}

/// Where a core gets it from.
enum Plan {
    /// The first core makes it, and hands it to the others.
    Make(Vec<oneshot::Sender<Shared>>),
    Take(oneshot::Receiver<Shared>),
}

/// What a core's thread is given.
struct CoreInput {
    socket: std::net::TcpListener,
    ends: CoreEnds<Deadline<RingDisk>>,
    plan: Plan,
}

/// Asked to stop before it served; no error.
#[derive(Debug, thiserror::Error)]
#[error("stopped before serving")]
struct StoppedEarly;

/// Serves until a signal asks to stop.
pub(crate) fn serve(options: &ServeOptions) -> anyhow::Result<()> {
    let directories = data_dir::claim(&options.data)?;
    let pins = options.cores.pins().context("cannot tell which CPUs this process may use")?;
    open_files::raise(pins.len());
    let sockets = bind(options.listen, pins.len())?;
    if !options.listen.ip().is_loopback() {
        server::report!(
            "warning: {} is reachable from other machines, and the protocol is plain HTTP: whoever sees the traffic \
             has the token and the data; use a loopback address behind a proxy that speaks TLS",
            options.listen
        );
    }
    let (senders, receivers): (Vec<_>, Vec<_>) = (1..pins.len()).map(|_| oneshot::channel()).unzip();
    let plans = std::iter::once(Plan::Make(senders)).chain(receivers.into_iter().map(Plan::Take));
    let inputs = sockets.into_iter().zip(CoreEnds::new(pins.len())).zip(plans);
    let inputs = inputs.map(|((socket, ends), plan)| CoreInput { socket, ends, plan });
    let inputs = pins.into_iter().zip(inputs).collect();
    let main = async |cores, input| on_core(options, &directories, cores, input).await;
    match net::run_cores(inputs, main)? {
        Err(error) if error.is::<StoppedEarly>() => {
            server::report!("{error}");
            Ok(())
        }
        served => served.map(|_| ()),
    }
}

/// Binds the address, waiting a moment for it: the kernel gives the port of a killed process back only after its rings.
fn bind(listen: std::net::SocketAddr, cores: usize) -> anyhow::Result<Vec<std::net::TcpListener>> {
    for attempt in 1.. {
        match net::bind(listen, cores) {
            Ok(sockets) => return Ok(sockets),
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

/// Everything that happens on one core.
async fn on_core(
    options: &ServeOptions,
    directories: &[DataDir],
    cores: Cores<Peer>,
    input: CoreInput,
) -> anyhow::Result<()> {
    let ring = Ring::new(RingOptions::default())?;
    let mut disks = Vec::with_capacity(directories.len());
    for directory in directories {
        let opened = RingDisk::open(&ring, &directory.path);
        let disk = opened.with_context(|| format!("cannot open {}", directory.path.display()))?;
        disks.push(Deadline::new(disk));
    }
    let CoreInput { socket, ends, plan } = input;
    let gc = options.gc();
    let start = |namespace, Shared { plan, keys, token }: Shared| async {
        let started =
            Node::start(NodeOptions { gc, ..NodeOptions::new(disks.clone(), keys) }, plan, namespace, ends).await;
        let (node, started) = started.map_err(|error| portable(&error))?;
        let peer = Rc::new(Peer::new());
        cores.start(peer.clone());
        let app = App::new(node.clone(), directories.len(), token, cores.clone(), peer.clone());
        anyhow::Ok((node, app, peer, started))
    };
    let handed_on = match plan {
        Plan::Take(plan) => {
            // The first core has failed, and says why.
            let Ok(shared) = plan.await else { return Ok(()) };
            let (_node, app, peer, started) = start(None, shared).await?;
            tell(&started.warnings);
            let listener = Listener::new(socket).context("cannot listen")?;
            {
                let accepting = pin!(accept(listener, &app));
                select(accepting, peer.drain().draining()).await;
            }
            peer.over().await;
            return Ok(());
        }
        Plan::Make(handed_on) => handed_on,
    };

    let mut termination = Termination::install().context("cannot wait for signals")?;
    let first = &directories[0].path;
    let key_file = options.key_file.clone().unwrap_or_else(|| first.join("keys"));
    let keys = Arc::new(keys::open(&key_file, directories)?);
    let (token, token_path) = token::open(first)?;
    let opening = async {
        let prepared = node::open::prepare(&NodeOptions::new(disks.clone(), keys.clone())).await;
        let (namespace, plan, mut report) = prepared.map_err(|error| portable(&error))?;
        let shared = Shared { plan, keys, token };
        for core in handed_on {
            // A core that is gone has failed, and says why.
            let _ = core.send(shared.clone());
        }
        let (node, app, _, started) = start(Some(namespace), shared).await?;
        report.add(started);
        let store = node.stats().await.context("a disk does not tell its free space")?.store;
        (report.segments, report.chunks) = (store.segments as usize, store.chunks);
        anyhow::Ok((node, app, report))
    };
    let (node, app, report) = match select(pin!(opening), pin!(termination.requested())).await {
        Either::Left((opened, _)) => opened?,
        Either::Right(_) => return Err(StoppedEarly.into()),
    };
    tell(&report.warnings);
    if report.formatted {
        server::report!("formatted the data directories");
    }
    server::report!(
        "warning: redundancy 1+0: every byte is on one disk only, and is lost with it; keep a copy of what matters \
         elsewhere"
    );
    let listener = Listener::new(socket).context("cannot listen")?;
    let address = listener.local_addr().context("cannot listen")?;
    let OpenReport { incarnation, segments, chunks, .. } = report;
    let mut stdout = std::io::stdout();
    // Nobody reading it is no reason not to serve.
    let _ = writeln!(
        stdout,
        "dfsd ready: http://{address} (token in {}, incarnation {incarnation}, {} cores, {segments} segments, {chunks} chunks)",
        token_path.display(),
        cores.count()
    );
    let _ = stdout.flush();

    // The listening socket closes with the future that owns it, at the end of this block.
    {
        let accepting = pin!(accept(listener, &app));
        select(accepting, pin!(termination.requested())).await;
    }
    runtime::spawn(async move {
        termination.requested().await;
        server::report!("stopped at once by a second signal");
        std::process::exit(1);
    });
    stop(&cores, &node).await
}

/// Tells the operator what a core's start found.
fn tell(warnings: &[String]) {
    for warning in warnings {
        server::report!("warning: {warning}");
    }
}

/// Accepts connections for ever.
async fn accept<D: Disk>(listener: Listener, app: &App<D>) -> std::convert::Infallible {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                failing = false;
                runtime::spawn(serve_connection(app.clone(), stream));
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    server::report!("warning: connections cannot be accepted for now: {error}");
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

/// Lets the requests of all cores finish, then closes the node.
async fn stop<D: Disk>(cores: &Cores<Peer>, node: &Node<D>) -> anyhow::Result<()> {
    let all = || (0..cores.count() as u16).map(CoreId);
    join_all(all().map(|core| cores.call(core, stop_core))).await;
    match within(CLOSE_MAX, node.close()).await {
        Some(closed) => closed.map_err(|error| portable(&error)).context("the node did not close cleanly")?,
        None => server::report!("warning: closing took too long; nothing is lost, but the next start scans more"),
    }
    for core in all() {
        cores.ask(core, Peer::end).await;
    }
    server::report!("stopped");
    Ok(())
}

/// Lets the requests of one core finish, or cuts them.
async fn stop_core(peer: Rc<Peer>) {
    let drain = peer.drain();
    if drain.connections() > 0 {
        server::report!("stopping: {} connections are open", drain.connections());
    }
    drain.drain();
    if within(DRAIN_MAX, drain.at_most(0)).await.is_none() {
        server::report!("cutting {} connections that took too long", drain.connections());
        drain.cut();
        // Those that do not even notice end with the process.
        let _ = within(CUT_MAX, drain.at_most(0)).await;
    }
}
