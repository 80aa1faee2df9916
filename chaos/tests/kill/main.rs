//! A real `dfsd`, killed with SIGKILL again and again, also while it recovers.
//!
//! What must hold after every restart:
//!
//! * every acknowledged file is there, byte for byte;
//! * an operation under way at the kill happened wholly or not at all;
//! * nothing else is visible, and the counters agree with what is;
//! * a client that repeats its requests across the kills sees each one happen exactly once.
//!
//! A kill takes the process and leaves the disk as it is. What a power cut does to writes that were not synced is the
//! business of the simulator.
//!
//! One seed decides what the clients do and when the kills come; how they interleave is the machine's. It is printed at
//! the start, and a run is repeated as closely as possible with
//!
//! ```text
//!   DFS_SEED=4711 DFS_KILL_ROUNDS=500 DFS_BIN_DIR=target/debug cargo test -p chaos --test kill
//! ```
//!
//! A reading guide: [`content`], bytes that follow from a seed; [`model`], what a client's part of the namespace must be;
//! [`contended`], files that all clients write; [`actor`], what a client does; [`writer`] and [`steady`], clients that
//! give up at a kill and that do not; [`daemon`], the process; [`verify`], the check. The rounds are here.

mod actor;
#[path = "../../../tools/tests/binary/mod.rs"]
mod binary;
mod contended;
mod content;
mod daemon;
mod model;
mod steady;
mod verify;
mod writer;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use actor::Actor;
use client::{Attributes, Client, Upload};
use contended::Contended;
use content::{Content, Random, Source, Texture};
use daemon::{Daemon, Site};
use model::{Operation, SHARED, Space};
use steady::{PATIENCE, Steady};
use verify::{Tally, verify};
use writer::Round;

/// Rounds unless `DFS_KILL_ROUNDS` says otherwise.
const ROUNDS: u64 = 60;
/// Clients that write at the same time, besides the steady one.
const WRITERS: u64 = 4;
/// Operations that are acknowledged before a kill, at most.
const ACKNOWLEDGED_MAX: u64 = 60;
/// How long after the last of them the kill comes, at most.
const KILL_DELAY_US_MAX: u64 = 5_000;
/// Kills during one recovery, at most.
const RECOVERY_KILLS_MAX: u64 = 4;
/// Longest wait for an acknowledgement: far longer than any should take.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "a process test measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// A number that differs from run to run.
fn any_number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The number in the environment variable `name`, or else `default`.
fn number(name: &str, default: impl FnOnce() -> u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
        Err(_) => default(),
    }
}

/// The seed of a test, printed.
fn seed(test: &str) -> u64 {
    let seed = number("DFS_SEED", || any_number() >> 16);
    println!("{test}: DFS_SEED={seed}");
    seed
}

/// How often the server ended, and how.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// SIGKILL while it served.
    kills: u64,
    /// SIGKILL after SIGTERM, before it had stopped.
    kills_while_stopping: u64,
    /// SIGKILL before it was ready.
    kills_in_recovery: u64,
    /// SIGTERM before it was ready.
    stops_in_recovery: u64,
    /// SIGTERM while it served.
    stops: u64,
}

/// Starts the server, and often ends it again while it recovers, until it serves.
fn recover(site: &Site, random: &mut Random, usual: &mut Duration, ends: &mut Ends) -> Daemon {
    let interruptions = if random.percent(50) { random.within(1, RECOVERY_KILLS_MAX) } else { 0 };
    for _ in 0..interruptions {
        let delay = Duration::from_micros(random.below(1 + usual.as_micros() as u64));
        let is_kill = random.percent(85);
        let mut daemon = site.start();
        daemon.is_ready_within(delay);
        let was_ready = if is_kill { daemon.kill() } else { daemon.stop() };
        *match (is_kill, was_ready) {
            (true, false) => &mut ends.kills_in_recovery,
            (true, true) => &mut ends.kills,
            (false, false) => &mut ends.stops_in_recovery,
            (false, true) => &mut ends.stops,
        } += 1;
    }
    let start = now();
    let daemon = site.serve();
    *usual = start.elapsed();
    daemon
}

/// Waits for some acknowledgements, and then a little; `false` if they stay away.
fn await_moment(acknowledged: &Receiver<()>, random: &mut Random) -> bool {
    for _ in 0..random.below(ACKNOWLEDGED_MAX) {
        if acknowledged.recv_timeout(SILENCE_MAX).is_err() {
            return false;
        }
    }
    let deadline = now() + Duration::from_micros(random.below(KILL_DELAY_US_MAX));
    while acknowledged.recv_timeout(deadline.saturating_duration_since(now())).is_ok() {}
    true
}

/// Ends a server that is at work.
fn end(daemon: Daemon, random: &mut Random, ends: &mut Ends) {
    let count = match random.below(10) {
        0..8 => {
            daemon.kill();
            &mut ends.kills
        }
        8 => {
            daemon.stop();
            &mut ends.stops
        }
        _ => {
            let patience = Duration::from_micros(random.below(KILL_DELAY_US_MAX));
            if daemon.stop_or_kill(patience) { &mut ends.kills_while_stopping } else { &mut ends.stops }
        }
    };
    *count += 1;
}

#[test]
fn acknowledged_files_survive_kills_at_any_moment_and_nothing_half_written_shows() {
    let seed = seed("kill");
    let rounds = number("DFS_KILL_ROUNDS", || ROUNDS);
    let mut random = Random::new(seed, 0);
    let site = Site::new();
    let (mut ends, mut verified) = (Ends::default(), Tally::default());
    let (mut acknowledged_total, mut open_total) = (0, 0);
    // The first start, which formats, is interrupted like every other.
    let mut usual = Duration::from_millis(100);
    let mut daemon = recover(&site, &mut random, &mut usual, &mut ends);
    let none = Attributes::default();
    site.hasty_client().make_directory(&actor::fs_path(SHARED), &none).expect("a directory that all share");
    let contended = [Contended::new("/contended"), Contended::new("/shared/contended")];
    let mut writers: Vec<Actor> =
        (0..WRITERS).map(|number| Actor::new(&format!("w{number}"), Random::new(seed, 1 + number))).collect();
    let steady = Steady::start("steady", Random::new(seed, 1 + WRITERS), site.client(PATIENCE));

    for round in 0..rounds {
        let start = now();
        let (sender, acknowledged) = channel();
        let round_of_writers = Round {
            client: site.hasty_client(),
            contended: &contended,
            killing: AtomicBool::new(false),
            acknowledged: sender,
            acknowledgements: AtomicU64::new(0),
            open: AtomicU64::new(0),
        };
        let is_alive = std::thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(|| round_of_writers.write(writer));
            }
            let is_alive = await_moment(&acknowledged, &mut random);
            round_of_writers.killing.store(true, Ordering::SeqCst);
            steady.kill();
            end(daemon, &mut random, &mut ends);
            is_alive
        });
        assert!(is_alive, "round {round}: nothing was acknowledged for {SILENCE_MAX:?}");
        open_total += round_of_writers.open.load(Ordering::Relaxed);
        acknowledged_total += round_of_writers.acknowledgements.load(Ordering::Relaxed);
        let ended = start.elapsed();
        daemon = recover(&site, &mut random, &mut usual, &mut ends);
        let recovered = start.elapsed();

        let mut resting = steady.rest();
        let spaces = writers.iter_mut().map(|writer| &mut writer.space);
        let mut spaces: Vec<&mut Space> = spaces.chain([&mut resting.actor().space]).collect();
        let tally = verify(&site.hasty_client(), &mut spaces, &contended, &[SHARED]);
        verified.add(tally);
        println!(
            "round {round}: at work {ended:?}, down {:?} (last start {usual:?}), verified {} files of {} bytes in {:?}; \
             {ends:?}",
            recovered - ended,
            tally.files,
            tally.bytes,
            start.elapsed() - recovered
        );
    }
    let steady = steady.finish();
    daemon.stop();
    println!(
        "{rounds} rounds, seed {seed}: {ends:?}; {acknowledged_total} operations acknowledged, {open_total} left open by \
         kills; {verified:?}; {steady:?}"
    );
    // Kills that hit nothing would prove nothing.
    if rounds >= ROUNDS {
        assert!(ends.kills >= rounds / 2 && ends.kills_in_recovery >= rounds / 4, "{ends:?}");
        assert!(open_total >= rounds / 2 && verified.happened > 0 && verified.did_not_happen > 0, "{verified:?}");
        assert!(steady.across_kills >= rounds / 2, "{steady:?}");
    }
}

/// Clients that upload at the same time in the test of memory.
const UPLOADERS: u64 = 8;
/// Bytes of each upload, at least and at most.
const UPLOAD_BYTES: (u64, u64) = (6 << 20, 12 << 20);
/// Bytes that all uploads together have sent when the kill comes, at least and at most.
const SENT_BYTES: (u64, u64) = (24 << 20, 96 << 20);
/// Memory that the server may take meanwhile.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Kills in the midst of uploads.
const UPLOAD_ROUNDS: u64 = 4;

/// A source that tells how much was taken from it.
struct Metered<'a> {
    source: Source,
    sent: &'a Sender<u64>,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        // Nobody counts any more once the server is killed.
        let _ = self.sent.send(read as u64);
        Ok(read)
    }
}

/// Uploads one large file after the other, until the server is gone.
fn upload(client: &Client, killing: &AtomicBool, actor: &mut Actor, sent: &Sender<u64>) {
    for number in 0.. {
        let bytes = actor.random.within(UPLOAD_BYTES.0, UPLOAD_BYTES.1);
        let content = Content { seed: actor.random.next(), bytes, texture: Texture::Unique };
        let path = format!("{}/f{}", actor.space.home, number % 2);
        let mut metered = Metered { source: content.source(), sent };
        let upload = Upload::stream(&mut metered, Some(bytes));
        let answer = client.put(&actor::fs_path(&path), upload, &Attributes::default());
        let operation = Operation::Put { path, content };
        match answer {
            Ok(entry) => actor.acknowledge(&operation, Some(&entry)),
            Err(error) => {
                assert!(killing.load(Ordering::SeqCst), "before the server was killed: {error:?}");
                actor.space.open = Some(operation);
                return;
            }
        }
    }
}

#[test]
fn large_uploads_cut_by_kills_leave_nothing_and_take_little_memory() {
    let seed = seed("uploads");
    let mut random = Random::new(seed, 0);
    let site = Site::new();
    let uploader = |number| Actor::new(&format!("u{number}"), Random::new(seed, 1 + number));
    let mut uploaders: Vec<Actor> = (0..UPLOADERS).map(uploader).collect();
    let mut daemon = site.serve();
    for round in 0..UPLOAD_ROUNDS {
        let (client, killing) = (site.hasty_client(), AtomicBool::new(false));
        let (sender, sent) = channel();
        let (wanted, mut seen) = (random.within(SENT_BYTES.0, SENT_BYTES.1), 0);
        let working = std::thread::scope(|scope| {
            for uploader in &mut uploaders {
                scope.spawn(|| upload(&client, &killing, uploader, &sender));
            }
            while seen < wanted
                && let Ok(bytes) = sent.recv_timeout(SILENCE_MAX)
            {
                seen += bytes;
            }
            let memory = daemon.memory_bytes_max();
            killing.store(true, Ordering::SeqCst);
            daemon.kill();
            memory
        });
        assert!(seen >= wanted, "round {round}: no byte was taken for {SILENCE_MAX:?}");
        daemon = site.serve();
        let mut spaces: Vec<&mut Space> = uploaders.iter_mut().map(|uploader| &mut uploader.space).collect();
        let tally = verify(&site.hasty_client(), &mut spaces, &[], &[]);
        let verifying = daemon.memory_bytes_max();
        println!("round {round}: {working} bytes of memory after {seen} bytes of uploads, {verifying} after {tally:?}");
        assert!(working.max(verifying) < MEMORY_BYTES_MAX, "round {round}: {working}, {verifying} bytes of memory");
        assert!(tally.happened + tally.did_not_happen >= UPLOADERS / 2, "the kill met too few uploads: {tally:?}");
    }
    daemon.stop();
}
