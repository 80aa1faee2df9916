//! A real `dfsd`: started, awaited, stopped and killed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use client::{Client, ClientOptions, RetryPolicy};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::any_number;
use crate::binary::binary;
use crate::content::Random;

/// Longest start that is waited for: far longer than any should take.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest time from SIGTERM to the end of the process, as promised, and something for a busy machine.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Lowest port that is tried.
const PORT_MIN: u16 = 10_000;
/// Ports that are tried.
const PORT_ATTEMPTS: usize = 100;
/// Bytes of the log that a failure shows.
const LOG_SHOWN_BYTES: u64 = 8 << 10;

/// Where a `dfsd` lives: its data, its port, its log. Outlives the processes.
pub(crate) struct Site {
    directory: Option<TempDir>,
    binary: PathBuf,
    address: SocketAddr,
}

impl Site {
    /// An empty data directory and a free port.
    ///
    /// Panics unless `DFS_BIN_DIR` names a directory with `dfsd` in it.
    pub(crate) fn new() -> Site {
        let binary = binary("dfsd");
        let address = free_address();
        Site { directory: Some(tempfile::tempdir().expect("a temporary directory")), binary, address }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.as_ref().expect("invariant: taken only by drop").path().join(name)
    }

    /// Starts a process; it is not ready yet.
    pub(crate) fn start(&self) -> Daemon {
        let log = OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log file");
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--listen").arg(self.address.to_string()).arg("--data").arg(self.path("data"));
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let stdout = BufReader::new(child.stdout.take().expect("invariant: standard output is piped"));
        let (sender, lines) = channel();
        // Ends with the process. Until then it waits for it, which a wait with a time limit needs.
        let reader = std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        reader.expect("a thread");
        Daemon { child, lines, is_ready: false }
    }

    /// Starts a process and waits until it serves.
    pub(crate) fn serve(&self) -> Daemon {
        let mut daemon = self.start();
        assert!(daemon.is_ready_within(START_MAX), "dfsd is not ready after {START_MAX:?}");
        daemon
    }

    /// A client of whatever process serves here.
    pub(crate) fn client(&self, retry: RetryPolicy) -> Client {
        let token = std::fs::read_to_string(self.path("data/root-token")).expect("a token, once dfsd was ready");
        let options = ClientOptions {
            endpoint: format!("http://{}", self.address),
            token: Some(token.trim().to_owned()),
            retry,
            ..ClientOptions::default()
        };
        Client::new(options).expect("a token and an endpoint that fit")
    }

    /// A client that never repeats a request, so that the outcome of a lost one is open.
    pub(crate) fn hasty_client(&self) -> Client {
        self.client(RetryPolicy { attempts_max: 1, ..RetryPolicy::default() })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let log = self.path("log");
        if let Some(directory) = self.directory.take() {
            eprintln!("the data is kept in {}", directory.keep().display());
        }
        let mut tail = String::new();
        if let Ok(mut file) = File::open(log) {
            let bytes = file.metadata().map_or(0, |metadata| metadata.len());
            let _ = file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_SHOWN_BYTES)));
            let _ = file.read_to_string(&mut tail);
        }
        eprintln!("the end of the log of dfsd:\n{tail}");
    }
}

/// A free loopback port that stays free while nothing serves on it.
///
/// It lies below the ports that the system gives to outgoing connections. On one of those, a client that calls while
/// the server is down could take the port away, or even be connected to itself.
fn free_address() -> SocketAddr {
    // Not from the seed of the test: tests with the same seed run side by side.
    let mut random = Random::new(any_number(), 0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first_outgoing = range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(u16::MAX);
    let ports = u64::from(if first_outgoing > PORT_MIN + 1000 { first_outgoing } else { u16::MAX } - PORT_MIN);
    let mut candidates =
        (0..PORT_ATTEMPTS).map(|_| (Ipv4Addr::LOCALHOST, PORT_MIN + random.below(ports) as u16).into());
    candidates.find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}

/// A process of `dfsd`; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    /// What it says on standard output; disconnected when it has ended.
    lines: Receiver<String>,
    is_ready: bool,
}

impl Daemon {
    /// Waits for the readiness line, up to `longest`. Panics if the process ends instead.
    pub(crate) fn is_ready_within(&mut self, longest: Duration) -> bool {
        if self.is_ready {
            return true;
        }
        match self.lines.recv_timeout(longest) {
            Ok(line) => {
                assert!(line.starts_with("dfsd ready: http://"), "not a readiness line: {line}");
                self.is_ready = true;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("dfsd ended instead of serving: {:?}", self.child.wait()),
        }
        self.is_ready
    }

    /// Most memory that the process ever had, in bytes.
    pub(crate) fn memory_bytes_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a living process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak of memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") << 10
    }

    /// Kills the process where it is, and waits for its end. Panics if it had ended by itself.
    ///
    /// Returns whether it had become ready.
    pub(crate) fn kill(mut self) -> bool {
        self.child.kill().expect("our own child can be killed");
        let status = self.child.wait().expect("our own child can be waited for");
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "dfsd ended by itself: {status}");
        // The line may have come after the last look.
        self.is_ready || self.lines.recv().is_ok()
    }

    /// Asks the process to stop and waits for its end, which must come in time and be a success.
    ///
    /// Returns whether it had become ready.
    pub(crate) fn stop(mut self) -> bool {
        assert!(self.stops_within(STOP_MAX), "dfsd goes on {STOP_MAX:?} after SIGTERM");
        let status = self.child.wait().expect("our own child can be waited for");
        // A signal that comes before the handler is there ends the process by itself.
        let ended_early = !self.is_ready && status.signal() == Some(Signal::TERM.as_raw());
        assert!(status.success() || ended_early, "dfsd did not stop cleanly: {status}");
        self.is_ready
    }

    /// Asks the process to stop, and kills it if it has not ended `patience` later.
    ///
    /// Returns whether it had to be killed.
    pub(crate) fn stop_or_kill(mut self, patience: Duration) -> bool {
        self.stops_within(patience);
        self.child.kill().expect("our own child can be killed");
        let status = self.child.wait().expect("our own child can be waited for");
        let was_killed = status.signal() == Some(Signal::KILL.as_raw());
        assert!(status.success() || was_killed, "dfsd did not stop cleanly: {status}");
        was_killed
    }

    /// Asks the process to stop; whether it ends within `longest`.
    fn stops_within(&mut self, longest: Duration) -> bool {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("our own child can be asked to stop");
        loop {
            match self.lines.recv_timeout(longest) {
                // It became ready just before.
                Ok(_) => self.is_ready = true,
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => return true,
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails when it has ended, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
