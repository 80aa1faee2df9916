//! One round: clients at work, a fault, recovery, the full check.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use client::RetryPolicy;

use super::content::{Content, Texture};
use super::court::Court;
use super::daemon::{Daemon, End};
use super::fault::FaultKind;
use super::keeper::Keeper;
use super::report::Report;
use super::speech::send;
use super::verify;
use super::writer::{Scene, Tally, Temper, Writer};
use super::{Ground, now, wait};
use crate::faultfs::{Effect, Fault, FaultFs, Operation, Survival};
use crate::oracle::model::{Action, AttributeChange};
use crate::oracle::{Violation, violation};
use crate::sim::Random;

/// Clients that give up at a lost request.
const HASTY_CLIENTS: u64 = 4;
/// Operations that are acknowledged before a fault, at most.
const ACKNOWLEDGED_MAX: u64 = 60;
/// How long after the last of them the fault comes, at most.
const DELAY_US_MAX: u64 = 5_000;
/// Longest wait for an acknowledgement without a fault: far longer than any should take.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a server works under a fault that does not end it, at most.
const UNDER_FAULT_MS_MAX: u64 = 1_500;
/// Interruptions of one recovery, at most.
const INTERRUPTIONS_MAX: u64 = 4;
/// What a full disk leaves, at most.
const FULL_FREE_BYTES_MAX: u64 = 12 << 20;
/// Longest that the clock library may take to look at its file, and something for a busy machine.
const NOTICE_MAX: Duration = Duration::from_secs(20);
/// Where the time is looked at.
const CLOCK_PATH: &str = "/clock/probe";
/// Outlasts every downtime of a run by far.
const PATIENCE: RetryPolicy =
    RetryPolicy { attempts_max: 900, backoff_min: Duration::from_millis(2), backoff_max: Duration::from_millis(100) };
/// Operations of the disk that faults are aimed at: those that carry the data more often.
const AIMS: [Operation; 10] = [
    Operation::Write,
    Operation::Write,
    Operation::Sync,
    Operation::Sync,
    Operation::Read,
    Operation::Allocate,
    Operation::Punch,
    Operation::Create,
    Operation::SyncDirectory,
    Operation::Rename,
];

/// A store with its server and its clients.
pub(super) struct Stage<'a> {
    ground: &'a mut Ground,
    faults: &'a [FaultKind],
    random: Random,
    court: Court,
    hasty: Vec<Writer>,
    patient: Vec<Writer>,
    keeper: Keeper,
    daemon: Option<Daemon>,
    /// How long a start takes, to interrupt one.
    usual: Duration,
}

/// A player on a thread of its own.
type Playing<'scope> = ScopedJoinHandle<'scope, Result<(), Violation>>;

fn join(players: Vec<Playing<'_>>) -> Result<(), Violation> {
    // All of them end before the first failure is told.
    let ended: Vec<_> = players.into_iter().map(ScopedJoinHandle::join).collect();
    ended.into_iter().try_for_each(|ended| ended.expect("a client's thread has failed; see its message"))
}

impl<'a> Stage<'a> {
    /// An empty store, which nobody has formatted yet.
    pub(super) fn new(ground: &'a mut Ground, faults: &'a [FaultKind], mut random: Random) -> Stage<'a> {
        let names = (0..HASTY_CLIENTS).map(|number| format!("w{number}"));
        let hasty = names.map(|name| Writer::new(&name, random.fork(), Temper::Hasty)).collect();
        let patient = vec![Writer::new("patient", random.fork(), Temper::Patient(1))];
        let keeper = Keeper::new(random.fork());
        let usual = Duration::from_millis(100);
        Stage { ground, faults, random, court: Court::open(), hasty, patient, keeper, daemon: None, usual }
    }

    /// Bytes that are free on the disk; `None` if it is a real one.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.ground.disk.as_ref().map(FaultFs::free_bytes)
    }

    /// The end of a store: all its space comes back, and its server stops as it should.
    pub(super) fn close(mut self, report: &mut Report) -> Result<(), Violation> {
        let daemon = self.daemon.take().expect("invariant: a round ends with a server");
        let (before, after) = verify::space_comes_back(&self.ground.site.client(PATIENCE)?)?;
        report.space.0 += before;
        report.space.1 += after;
        daemon.stop().map(drop)
    }

    /// Plays a round; returns a line about it.
    pub(super) fn round(&mut self, kind: FaultKind, report: &mut Report) -> Result<String, Violation> {
        let start = now();
        if self.daemon.is_none() {
            self.recover(FaultKind::Recovery, report)?;
        }
        let (sender, acknowledged) = channel();
        let scene = Scene {
            court: self.court.clone(),
            trouble: AtomicBool::new(false),
            curtain: AtomicBool::new(false),
            acknowledged: sender,
            tally: Tally::default(),
        };
        let (hasty_client, patient_client) = (self.ground.site.hasty_client()?, self.ground.site.client(PATIENCE)?);
        let (mut hasty, mut patient) = (std::mem::take(&mut self.hasty), std::mem::take(&mut self.patient));
        let mut keeper = self.keeper.fork();
        let played = std::thread::scope(|scope| {
            let (scene, hasty_client, patient_client) = (&scene, &hasty_client, &patient_client);
            let mut brief: Vec<Playing<'_>> =
                hasty.iter_mut().map(|writer| scope.spawn(|| writer.play(hasty_client, scene))).collect();
            brief.push(scope.spawn(|| keeper.play(hasty_client, scene)));
            let patient = patient.iter_mut().map(|writer| scope.spawn(|| writer.play(patient_client, scene))).collect();
            let down = self.strike(kind, scene, &acknowledged, brief, report);
            scene.curtain.store(true, Ordering::SeqCst);
            join(patient).and(down)
        });
        (self.hasty, self.patient) = (hasty, patient);
        account(&scene.tally, report);
        let down = played?;
        *report.faults.entry(kind).or_default() += 1;
        report.unavailable_max = report.unavailable_max.max(down);
        if self.court.hear(|docket| docket.is_unsettled()) {
            // What the process may still do would show in one part of the check and not in another.
            let daemon = self.daemon.take().expect("invariant: a round ends with a server");
            self.kill(daemon, FaultKind::Kill, report)?;
            self.court.hear(|docket| docket.crash())?;
            self.start(report)?;
        }
        let verified = verify::everything(&self.ground.site.hasty_client()?, &self.court)?;
        report.verifications += 1;
        report.verified_files += verified.files;
        report.verified_bytes += verified.bytes;
        report.expired_files += verified.expired;
        Ok(format!(
            "{kind:<8}  {:>3} acknowledged, {} open, down {down:.1?}, verified {} files of {} bytes; took {:.1?}",
            scene.tally.acknowledged.load(Ordering::Relaxed),
            scene.tally.open.load(Ordering::Relaxed),
            verified.files,
            verified.bytes,
            start.elapsed()
        ))
    }

    /// Lets the clients work, strikes, and brings the server back. Returns how long it was gone.
    fn strike(
        &mut self,
        kind: FaultKind,
        scene: &Scene,
        acknowledged: &Receiver<()>,
        hasty: Vec<Playing<'_>>,
        report: &mut Report,
    ) -> Result<Duration, Violation> {
        let is_alive = self.await_moment(acknowledged);
        scene.trouble.store(true, Ordering::SeqCst);
        let start = now();
        let daemon = self.daemon.take().expect("invariant: a round has a server");
        let ends = self.fault(kind, daemon, acknowledged, report);
        // Whatever came of it, the clients end: without a server at once, otherwise with what they are at.
        scene.curtain.store(true, Ordering::SeqCst);
        if matches!(ends, Ok(Ends::Yes)) {
            join(hasty)?;
            self.court.hear(|docket| docket.crash())?;
            self.recover(kind, report)?;
        } else {
            join(hasty)?;
        }
        let down = start.elapsed();
        if let Some(disk) = &self.ground.disk {
            disk.set_capacity(super::DISK_BYTES);
        }
        ends?;
        if is_alive { Ok(down) } else { Err(violation!("nothing was acknowledged for {SILENCE_MAX:?}")) }
    }

    /// Waits for some acknowledgements, and then a little; `false` if they stay away.
    fn await_moment(&mut self, acknowledged: &Receiver<()>) -> bool {
        for _ in 0..self.random.below(ACKNOWLEDGED_MAX) {
            if acknowledged.recv_timeout(SILENCE_MAX).is_err() {
                return false;
            }
        }
        wait(Duration::from_micros(self.random.below(DELAY_US_MAX)));
        true
    }

    /// Lets the server work under a fault: until so much was acknowledged, or for a while.
    fn work_on(&mut self, acknowledged: &Receiver<()>) {
        let longest = Duration::from_millis(self.random.between(50, UNDER_FAULT_MS_MAX));
        let (start, wanted) = (now(), self.random.between(1, ACKNOWLEDGED_MAX));
        let mut seen = 0;
        while seen < wanted && acknowledged.recv_timeout(longest.saturating_sub(start.elapsed())).is_ok() {
            seen += 1;
        }
    }

    /// Does it. The server lives on, in `self.daemon`, or ends.
    fn fault(
        &mut self,
        kind: FaultKind,
        daemon: Daemon,
        acknowledged: &Receiver<()>,
        report: &mut Report,
    ) -> Result<Ends, Violation> {
        match kind {
            FaultKind::Kill | FaultKind::Recovery => self.kill(daemon, kind, report)?,
            FaultKind::Term if self.random.chance(1, 2) => drop(daemon.stop()?),
            FaultKind::Term => {
                let patience = Duration::from_micros(self.random.below(20 * DELAY_US_MAX));
                daemon.stop_or_kill(patience)?;
            }
            FaultKind::Power => {
                self.kill(daemon, kind, report)?;
                self.lose_power(report);
            }
            FaultKind::Stop => {
                daemon.pause();
                wait(Duration::from_millis(self.random.between(50, UNDER_FAULT_MS_MAX)));
                if self.random.chance(1, 4) {
                    self.kill(daemon, kind, report)?;
                    return Ok(Ends::Yes);
                }
                daemon.resume();
                self.work_on(acknowledged);
                self.daemon = Some(daemon);
                return Ok(Ends::No);
            }
            FaultKind::Clock => {
                let random = &mut self.random;
                self.ground.clock.as_mut().expect("invariant: the fault is permitted").jump(random)?;
                self.daemon = Some(daemon);
                self.work_on(acknowledged);
                self.await_clock()?;
                return Ok(Ends::No);
            }
            FaultKind::Full => {
                let free = self.random.below(FULL_FREE_BYTES_MAX);
                let disk = self.disk();
                disk.set_capacity(super::DISK_BYTES - disk.free_bytes() + free);
                self.work_on(acknowledged);
                if self.random.chance(1, 2) {
                    self.daemon = Some(daemon);
                    return Ok(Ends::No);
                }
                self.kill(daemon, kind, report)?;
            }
            FaultKind::Slow => {
                for _ in 0..3 {
                    let delay = Duration::from_millis(self.random.between(1, 100));
                    let times = self.random.between(5, 50);
                    self.inject(Effect::Slow(delay), times);
                }
                self.work_on(acknowledged);
                self.disk().clear_faults();
                self.daemon = Some(daemon);
                return Ok(Ends::No);
            }
            FaultKind::Eio | FaultKind::Torn | FaultKind::Hang => {
                let effect = match kind {
                    FaultKind::Eio => Effect::Io,
                    FaultKind::Torn => Effect::Torn,
                    _ => Effect::Hang,
                };
                let times = *self.random.pick(&[1, 1, 3, u64::MAX]);
                self.inject(effect, times);
                self.work_on(acknowledged);
                self.kill(daemon, kind, report)?;
                if self.faults.contains(&FaultKind::Power) && self.random.chance(1, 2) {
                    self.lose_power(report);
                }
                self.disk().clear_faults();
            }
        }
        Ok(Ends::Yes)
    }

    fn disk(&self) -> &FaultFs {
        self.ground.disk.as_ref().expect("invariant: the fault is permitted")
    }

    fn inject(&mut self, effect: Effect, times: u64) {
        let operation = if effect == Effect::Torn { Operation::Write } else { *self.random.pick(&AIMS) };
        let after = self.random.below(30);
        self.disk().inject(Fault { operation, after, times, effect });
    }

    fn lose_power(&mut self, report: &mut Report) {
        let survival = Survival::draw(&mut self.random);
        let mut random = self.random.fork();
        let loss = self.disk().lose_power(survival, &mut random);
        report.lost.pages += loss.pages;
        report.lost.torn_pages += loss.torn_pages;
        report.lost.lengths += loss.lengths;
        report.lost.names += loss.names;
    }

    /// Kills a process; only a fault of the disk excuses that it had ended itself, with an error.
    fn kill(&self, daemon: Daemon, kind: FaultKind, report: &mut Report) -> Result<(), Violation> {
        let release = || {
            if let Some(disk) = &self.ground.disk {
                disk.clear_faults();
            }
        };
        match daemon.kill(release)? {
            End::AsTold => Ok(()),
            End::ByItself if kind.needs_fuse() => {
                report.gave_up += 1;
                Ok(())
            }
            End::ByItself => Err(violation!("dfsd ended by itself, with no fault of the disk")),
        }
    }

    /// Starts the server, and often ends it again while it recovers, until it serves.
    fn recover(&mut self, kind: FaultKind, report: &mut Report) -> Result<(), Violation> {
        let interruptions = match kind {
            FaultKind::Recovery => self.random.between(1, INTERRUPTIONS_MAX),
            _ => self.random.below(8) / 7,
        };
        for _ in 0..interruptions {
            self.interrupt(report)?;
            report.interrupted_starts += 1;
            self.court.hear(|docket| docket.crash())?;
        }
        self.start(report)
    }

    /// Starts the server, which must serve.
    fn start(&mut self, report: &mut Report) -> Result<(), Violation> {
        let start = now();
        self.daemon = Some(self.ground.site.serve()?);
        self.usual = start.elapsed();
        report.starts.push(self.usual);
        Ok(())
    }

    /// Starts the server and ends it somewhere on the way.
    fn interrupt(&mut self, report: &mut Report) -> Result<(), Violation> {
        let has = |kind| self.faults.contains(&kind);
        let (may_fail, may_lose) = (has(FaultKind::Eio), has(FaultKind::Power));
        if may_fail && self.random.chance(1, 4) {
            let times = *self.random.pick(&[1, u64::MAX]);
            self.inject(Effect::Io, times);
            let mut daemon = self.ground.site.start()?;
            if daemon.serves_or_refuses()? {
                self.kill(daemon, FaultKind::Eio, report)?;
            } else {
                report.gave_up += 1;
            }
            self.disk().clear_faults();
        } else {
            let delay = Duration::from_micros(self.random.below(1 + self.usual.as_micros() as u64));
            let mut daemon = self.ground.site.start()?;
            daemon.is_ready_within(delay)?;
            if self.random.chance(1, 6) {
                daemon.stop()?;
            } else {
                self.kill(daemon, FaultKind::Recovery, report)?;
            }
        }
        if may_lose && self.random.chance(1, 2) {
            self.lose_power(report);
        }
        Ok(())
    }

    /// Waits until the server goes by the new time: a jump that it does not see would prove nothing.
    fn await_clock(&mut self) -> Result<(), Violation> {
        let start = now();
        let client = self.ground.site.hasty_client()?;
        loop {
            let content = Content { seed: 0, bytes: 0, texture: Texture::Unique };
            let (action, number) = self.court.hear(move |docket| {
                let id = docket.oracle.add_content(content.describe());
                let (attributes, condition) = (AttributeChange::default(), meta::Condition::Any);
                let action = Action::Put { path: CLOCK_PATH.to_owned(), content: id, bytes: 0, attributes, condition };
                let number = docket.oracle.call(action.clone(), None);
                (action, number)
            });
            let sent = send(&client, &action, Some(content));
            let (answer, entry) = sent.map_err(|error| violation!("after a jump of the clock: {error:?}"))?;
            self.court.hear(move |docket| docket.answer(CLOCK_PATH, number, &answer))?;
            let noted = entry.and_then(|entry| client::time::parse_rfc3339_utc_ns(&entry.created_at));
            if noted.is_some_and(|noted| self.ground.clock.as_ref().is_some_and(|clock| clock.shows(noted))) {
                return Ok(());
            }
            if start.elapsed() > NOTICE_MAX {
                return Err(violation!("dfsd does not see the clock jump: {noted:?} ns, {:?}", self.ground.clock));
            }
            wait(Duration::from_millis(50));
        }
    }
}

/// Whether a fault ended the process.
enum Ends {
    Yes,
    No,
}

fn account(tally: &Tally, report: &mut Report) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    report.operations += count(&tally.operations);
    report.acknowledged += count(&tally.acknowledged);
    report.refused += count(&tally.refused);
    report.did_not_happen += count(&tally.did_not_happen);
    report.open += count(&tally.open);
    report.reads += count(&tally.reads);
    report.failed_reads += count(&tally.failed_reads);
    report.retentions += count(&tally.retentions);
    report.collections += count(&tally.collections);
}
