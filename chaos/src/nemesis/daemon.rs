//! A real `dfsd`: started, awaited, stopped, paused and killed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use client::{Client, ClientOptions, RetryPolicy};
use rustix::process::{Pid, Signal, kill_process};

use crate::oracle::{Violation, violation};
use crate::sim::Random;

/// Longest start that is waited for: far longer than any should take.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest time from SIGTERM to the end of the process, as promised, and something for a busy machine.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Lowest port that is tried.
const PORT_MIN: u16 = 10_000;
/// Ports that are tried.
const PORT_ATTEMPTS: usize = 100;
/// Bytes of the log that a failure shows.
const LOG_SHOWN_BYTES: u64 = 2 << 10;

/// Where a `dfsd` lives: its data, its port, its log. Outlives the processes.
#[derive(Clone, Debug)]
pub struct Site {
    binary: PathBuf,
    data: PathBuf,
    log: PathBuf,
    address: SocketAddr,
    environment: Vec<(String, String)>,
}

impl Site {
    /// The program `binary` on the data directory `data`, which need not exist, with its log appended to the file `log`,
    /// on a free loopback port.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn new(binary: &Path, data: &Path, log: &Path) -> Site {
        let address = free_address();
        Site { binary: binary.into(), data: data.into(), log: log.into(), address, environment: Vec::new() }
    }

    /// The same with more environment variables.
    #[must_use]
    pub fn with_environment(self, environment: Vec<(String, String)>) -> Site {
        Site { environment, ..self }
    }

    /// Starts a process; it is not ready yet.
    ///
    /// # Errors
    /// [`Violation`] if the program cannot be run.
    pub fn start(&self) -> Result<Daemon, Violation> {
        let failed = |error: std::io::Error| violation!("{} cannot be run: {error}", self.binary.display());
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(failed)?;
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--listen").arg(self.address.to_string()).arg("--data").arg(&self.data);
        command.envs(self.environment.iter().cloned());
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = spawned.map_err(failed)?;
        let stdout = BufReader::new(child.stdout.take().expect("invariant: standard output is piped"));
        let (sender, lines) = channel();
        // Ends with the process. Until then it waits for it, which a wait with a time limit needs.
        let reader = std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        reader.map_err(failed)?;
        Ok(Daemon { child, lines, is_ready: false })
    }

    /// Starts a process and waits until it serves.
    ///
    /// # Errors
    /// [`Violation`] if it does not, within a minute.
    pub fn serve(&self) -> Result<Daemon, Violation> {
        let mut daemon = self.start()?;
        match daemon.is_ready_within(START_MAX)? {
            true => Ok(daemon),
            false => Err(violation!("dfsd is not ready after {START_MAX:?}")),
        }
    }

    /// A client of whatever process serves here.
    ///
    /// # Errors
    /// [`Violation`] if there is no token, which a server that was ready has left.
    pub fn client(&self, retry: RetryPolicy) -> Result<Client, Violation> {
        let token = std::fs::read_to_string(self.data.join("root-token"));
        let token = token.map_err(|error| violation!("dfsd was ready, but its token: {error}"))?;
        let options = ClientOptions {
            endpoint: format!("http://{}", self.address),
            token: Some(token.trim().to_owned()),
            retry,
            ..ClientOptions::default()
        };
        Client::new(options).map_err(|error| violation!("the token of dfsd: {error}"))
    }

    /// A client that never repeats a request, so that the outcome of a lost one is open.
    ///
    /// # Errors
    /// As [`Site::client`].
    pub fn hasty_client(&self) -> Result<Client, Violation> {
        self.client(RetryPolicy { attempts_max: 1, ..RetryPolicy::default() })
    }

    /// The end of the log of all processes.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let mut tail = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let bytes = file.metadata().map_or(0, |metadata| metadata.len());
            let _ = file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_SHOWN_BYTES)));
            let _ = file.read_to_end(&mut tail);
        }
        String::from_utf8_lossy(&tail).into_owned()
    }
}

/// A free loopback port that stays free while nothing serves on it.
///
/// It lies below the ports that the system gives to outgoing connections. On one of those, a client that calls while
/// the server is down could take the port away, or even be connected to itself.
fn free_address() -> SocketAddr {
    // Not from the seed of the run: runs with the same seed go on side by side.
    let mut random = Random::new(super::any_number());
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first_outgoing = range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(u16::MAX);
    let ports = u64::from(if first_outgoing > PORT_MIN + 1000 { first_outgoing } else { u16::MAX } - PORT_MIN);
    let mut candidates =
        (0..PORT_ATTEMPTS).map(|_| (Ipv4Addr::LOCALHOST, PORT_MIN + random.below(ports) as u16).into());
    candidates.find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it was told to.
    AsTold,
    /// By itself, with an error that it reported.
    ByItself,
}

/// A process of `dfsd`; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// What it says on standard output; disconnected when it has ended.
    lines: Receiver<String>,
    is_ready: bool,
}

impl Daemon {
    /// Waits for the readiness line, up to `longest`.
    ///
    /// # Errors
    /// [`Violation`] if the process ends instead, or says something else.
    pub fn is_ready_within(&mut self, longest: Duration) -> Result<bool, Violation> {
        if self.is_ready {
            return Ok(true);
        }
        match self.lines.recv_timeout(longest) {
            Ok(line) if line.starts_with("dfsd ready: http://") => self.is_ready = true,
            Ok(line) => return Err(violation!("not a readiness line: {line}")),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(violation!("dfsd ended instead of serving: {:?}", self.child.wait()));
            }
        }
        Ok(self.is_ready)
    }

    /// Waits until it serves or ends, up to a minute: `false` if it ended with an error that it reported.
    ///
    /// # Errors
    /// [`Violation`] if it does neither, or crashes.
    pub fn serves_or_refuses(&mut self) -> Result<bool, Violation> {
        match self.lines.recv_timeout(START_MAX) {
            Ok(_) => {
                self.is_ready = true;
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Err(violation!("dfsd neither serves nor ends within {START_MAX:?}")),
            Err(RecvTimeoutError::Disconnected) => self.wait().and_then(check_end).map(|_| false),
        }
    }

    /// Whether it became ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Most memory that the process ever had, in bytes.
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a living process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak of memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") << 10
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("invariant: our own child can be signalled");
    }

    fn wait(&mut self) -> Result<ExitStatus, Violation> {
        self.child.wait().map_err(|error| violation!("dfsd cannot be waited for: {error}"))
    }

    /// Stops the process where it is, as if the machine had no time for it.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills the process where it is and waits for its end, while `release` lets go what holds it in the kernel.
    ///
    /// # Errors
    /// [`Violation`] if it had crashed.
    pub fn kill(mut self, release: impl FnOnce()) -> Result<End, Violation> {
        self.signal(Signal::KILL);
        release();
        let status = self.wait()?;
        // The line may have come after the last look.
        self.is_ready |= self.lines.try_recv().is_ok();
        check_end(status)
    }

    /// Asks the process to stop and waits for its end, which must come in time and be a success.
    ///
    /// # Errors
    /// [`Violation`] if it does not.
    pub fn stop(mut self) -> Result<End, Violation> {
        if !self.stops_within(STOP_MAX) {
            return Err(violation!("dfsd goes on {STOP_MAX:?} after SIGTERM"));
        }
        let status = self.wait()?;
        // A signal that comes before the handler is there ends the process by itself.
        let ended_early = !self.is_ready && status.signal() == Some(Signal::TERM.as_raw());
        if status.success() || ended_early {
            return Ok(End::AsTold);
        }
        Err(violation!("dfsd did not stop cleanly: {status}"))
    }

    /// Asks the process to stop, and kills it if it has not ended `patience` later.
    ///
    /// # Errors
    /// [`Violation`] if it ends in another way.
    pub fn stop_or_kill(mut self, patience: Duration) -> Result<End, Violation> {
        self.stops_within(patience);
        self.signal(Signal::KILL);
        let status = self.wait()?;
        if status.success() { Ok(End::AsTold) } else { check_end(status) }
    }

    /// Asks the process to stop; whether it ends within `longest`.
    fn stops_within(&mut self, longest: Duration) -> bool {
        self.signal(Signal::TERM);
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

/// A process ends by SIGKILL, or with an error code; any other signal is a crash.
fn check_end(status: ExitStatus) -> Result<End, Violation> {
    match (status.signal(), status.code()) {
        (Some(signal), _) if signal == Signal::KILL.as_raw() => Ok(End::AsTold),
        (None, Some(code)) if code != 0 => Ok(End::ByItself),
        _ => Err(violation!("dfsd ended by itself: {status}")),
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails when it has ended, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
