//! A disk that loses, as a real one may, whatever was not synced, and does worse if it is told to.
//!
//! * Operations take virtual time and complete in any order. An operation that was issued runs to its end, also when
//!   its future is dropped: it is an event of the simulator.
//! * Reads see the newest completed write. A sync covers what completed before it was issued, never more.
//! * [`Crash::Process`]: operations in flight happen wholly, partly or not at all; everything completed stays readable,
//!   and still un-synced. [`Crash::Power`]: besides, any subset of un-synced sectors, names and lengths is lost, and one
//!   sector may be torn (see `content.rs` and `names.rs`).
//! * Space is accounted for by sector, so a disk can fill up. Errors and flipped bits are injected by the harness.
//! * What the kernel would refuse with O_DIRECT (unaligned offsets and lengths) panics: it is a bug, not a fault.
//! * Memory that a reader must not trust (past the end of the file, a fresh buffer) holds garbage.
//! * A fault is drawn by the harness, strikes the nth operation from then on, and is counted when it strikes.
//!
//! | fault | how it is drawn | what the node answers |
//! |---|---|---|
//! | un-synced sectors, lengths, names lost; a torn sector | any subset, at every power loss | nothing that was acknowledged is missing |
//! | I/O error: `fail_nth` | any operation | an error; the segment is left behind, the log stops changes until a restart |
//! | no space | disks near each limit of the node | changes are refused, removals work, nothing is lost |
//! | rot in rows and footers: `corrupt` | any bit, at rest | `Damaged`, naming file and bytes; a footer is replaced by a scan |
//! | rot in a log, a snapshot, a segment's header | any bit, at rest, but the newest batch of the newest log | the start is refused, naming the place; all is there once it is mended |
//! | rot in superblocks | any bit, at rest, of one of the copies | nothing: another copy is used |
//! | misdirected write: `misdirect_nth` | rows, footers, headers, snapshots, superblocks; it may hit data | `Damaged`, for what was written and what was hit; a header or a snapshot is read back, so it is not used |
//! | stale read: `stale_nth` | any file, once | `Damaged` or a start that is refused, at that moment; nothing is given up |
//! | reverted disk: `remember`, `revert` | any of several disks, to before a start that opened | the start is refused as `Stale`, unless nothing is missing |
//! | slow: `slow_nth` | up to a minute for each operation, for two minutes | everything, later |
//! | stalled: `stall_nth` | up to six minutes, or until the process ends | after three minutes an I/O error, and for all that the disk is asked until the next start |
//!
//! Outside of the promise, for a node keeps its metadata on one disk: the loss of the newest batch of the newest log (its
//! rot, or a write of it that went astray) looks like a write that a crash cut short. A disk that comes back as it was
//! earlier in the same start is noticed only if it has forgotten a segment with rows, and a node of one disk that comes
//! back whole as it was cannot know.

mod allocation;
mod content;
mod faults;
mod medium;
mod names;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use proto::checksum::checksum;
use proto::limits::SECTOR_BYTES;
use proto::port::{AlignedBuf, Deadline, Disk, DiskFile, DiskSpace};

use self::faults::{Faults, Hold};
use self::medium::{Ending, Medium, OpenToken};
use super::completion::completion;
use super::executor::Executor;
use super::faults::{self as kinds, Happened};
use super::random::Random;

/// Contents of memory that nobody may trust.
const GARBAGE: u8 = 0xa5;
/// An operation takes at least this long.
const LATENCY_NS_MIN: u64 = 10_000;
/// Most operations take at most this long, besides their transfer.
const LATENCY_NS_MAX: u64 = 200_000;
/// What a sync adds at most.
const SYNC_NS_MAX: u64 = 1_000_000;
/// Transfer: one nanosecond for each of so many bytes.
const BYTES_PER_NS: u64 = 4;
/// One operation in so many is slow, by [`SLOW_FACTOR`].
const SLOW_ONE_IN: u64 = 64;
const SLOW_FACTOR: u64 = 20;

/// What a simulated disk is like.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Bytes of the device.
    pub capacity_bytes: u64,
    /// Sectors that one power loss may tear, at 512-byte edges.
    pub torn_sectors_max: u32,
    /// What the disk says it did and did not.
    pub lie: Lie,
}

/// A broken disk, to prove that tests notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// It is honest.
    #[default]
    Nothing,
    /// `sync` does nothing.
    Sync,
    /// `write_durable_at` writes, but does not make durable.
    DurableWrite,
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions { capacity_bytes: 64 << 30, torn_sectors_max: 1, lie: Lie::Nothing }
    }
}

/// How a run is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// SIGKILL: the process is gone, the machine runs on.
    Process,
    /// The machine loses power.
    Power,
}

/// Kinds of operations, for faults and the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are named after the methods of the port")]
pub enum Operation {
    Create,
    Open,
    List,
    Remove,
    Rename,
    SyncDir,
    Space,
    Read,
    Write,
    Sync,
    SetLen,
    Punch,
    Len,
}

impl Operation {
    /// What is counted when it fails.
    fn fault(self) -> &'static str {
        match self {
            Operation::Read | Operation::Len => kinds::READ_FAILED,
            Operation::Write => kinds::WRITE_FAILED,
            Operation::Sync | Operation::SyncDir => kinds::SYNC_FAILED,
            _ => kinds::NAMES_FAILED,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Operation::Create => "disk.create",
            Operation::Open => "disk.open",
            Operation::List => "disk.list",
            Operation::Remove => "disk.remove",
            Operation::Rename => "disk.rename",
            Operation::SyncDir => "disk.sync_dir",
            Operation::Space => "disk.space",
            Operation::Read => "disk.read",
            Operation::Write => "disk.write",
            Operation::Sync => "disk.sync",
            Operation::SetLen => "disk.set_len",
            Operation::Punch => "disk.punch",
            Operation::Len => "disk.len",
        }
    }
}

/// How much of what was not synced survives a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survival {
    Nothing,
    Everything,
    /// Each change by its own luck: the newest state this many times in four, else any.
    Each {
        newest_in_four: u64,
    },
}

impl Survival {
    fn draw(random: &mut Random) -> Survival {
        match random.below(6) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            newest_in_four => Survival::Each { newest_in_four: newest_in_four - 2 },
        }
    }

    /// Of `changes` in order, how many the survivor has seen.
    fn prefix(self, changes: usize, random: &mut Random) -> usize {
        match self {
            Survival::Nothing => 0,
            Survival::Everything => changes,
            Survival::Each { newest_in_four } if random.chance(newest_in_four, 4) => changes,
            Survival::Each { .. } => random.below(changes as u64 + 1) as usize,
        }
    }
}

type Effect = Box<dyn FnOnce(&mut Medium, Ending)>;

struct Device {
    executor: Rc<Executor>,
    medium: RefCell<Medium>,
    in_flight: RefCell<BTreeMap<u64, (Operation, Effect)>>,
    issued: RefCell<u64>,
    random: RefCell<Random>,
}

/// A simulated disk. Clones are the same disk; it outlives the processes that use it.
#[derive(Clone)]
pub struct SimDisk(Rc<Device>);

impl SimDisk {
    pub(crate) fn new(executor: Rc<Executor>, options: DiskOptions, mut random: Random, happened: Happened) -> SimDisk {
        let medium = RefCell::new(Medium::new(options, random.fork(), happened));
        let random = RefCell::new(random);
        SimDisk(Rc::new(Device { executor, medium, in_flight: RefCell::default(), issued: RefCell::default(), random }))
    }

    /// Lets `nth` more operations of this kind complete (0: none), then fails one with an I/O error.
    ///
    /// A failed write leaves any part of its sectors, a failed sync loses any part of what it should have kept.
    pub fn fail_nth(&self, operation: Operation, nth: u64) {
        self.0.medium.borrow_mut().faults.fail_nth(operation, nth);
    }

    /// Lets `nth` more writes to files whose names start with `scope` complete, then misdirects one: it lands elsewhere
    /// in its file, or in another in scope, never on a first sector. It reports success, and what it should have
    /// replaced stays.
    pub fn misdirect_nth(&self, scope: &'static str, nth: u64) {
        self.0.medium.borrow_mut().faults.misdirect_nth(scope, nth);
    }

    /// Lets `nth` more reads of files whose names start with `scope` complete; the first one after them that meets a
    /// sector which changed since the power last went shows it as it was before its last change.
    pub fn stale_nth(&self, scope: &'static str, nth: u64) {
        self.0.medium.borrow_mut().faults.stale_nth(scope, nth);
    }

    /// Lets `nth` more operations go, then makes all that are issued during `lasts` take up to `extra_max` longer. It
    /// replaces a stall.
    pub fn slow_nth(&self, nth: u64, lasts: Duration, extra_max: Duration) {
        self.0.medium.borrow_mut().faults.slow_nth(nth, lasts, extra_max);
    }

    /// Lets `nth` more operations go; what is issued then is answered only when `lasts` is over, or never by this
    /// process. It replaces a slow spell.
    pub fn stall_nth(&self, nth: u64, lasts: Option<Duration>) {
        self.0.medium.borrow_mut().faults.stall_nth(nth, lasts);
    }

    /// Remembers what is durable now, for [`SimDisk::revert`].
    pub fn remember(&self) {
        self.0.medium.borrow_mut().remember();
    }

    /// Makes the whole disk what it was when it was last remembered; nobody may use it. Returns whether it ever was.
    pub fn revert(&self) -> bool {
        let mut medium = self.0.medium.borrow_mut();
        let reverted = medium.swap();
        medium.happened.add(kinds::DISK_REVERTED, u64::from(reverted));
        reverted
    }

    /// Undoes [`SimDisk::revert`], as an operator who finds the right disk. Nobody may use it.
    ///
    /// # Panics
    /// If the disk is not reverted.
    pub fn restore(&self) {
        let mut medium = self.0.medium.borrow_mut();
        assert!(medium.swap(), "invariant: only a reverted disk is restored");
        medium.forget_other();
    }

    /// Changes the bytes of the device, as an operator who enlarges a volume.
    pub fn resize(&self, capacity_bytes: u64) {
        self.0.medium.borrow_mut().resize(capacity_bytes);
    }

    /// Bytes of the device that are taken.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.0.medium.borrow().used_bytes()
    }

    /// Lets nothing further go wrong. What went wrong at rest stays as it is.
    pub fn clear_faults(&self) {
        self.0.medium.borrow_mut().faults = Faults::default();
    }

    /// Flips bit `bit` of the byte at `offset` of file `name`, as rot at rest would.
    ///
    /// Returns whether there was data to damage: a hole and a missing file have none.
    ///
    /// # Panics
    /// If `bit` is not below 8.
    pub fn corrupt(&self, name: &str, offset: u64, bit: u8) -> bool {
        assert!(bit < 8, "a byte has eight bits");
        let mut medium = self.0.medium.borrow_mut();
        let flipped = medium.flip(name, offset, bit);
        medium.happened.add(kinds::BIT_FLIPPED, u64::from(flipped));
        flipped
    }

    /// Flips a bit back, as an operator who has a copy of the file. Returns whether the file is still there.
    pub fn mend(&self, name: &str, offset: u64, bit: u8) -> bool {
        self.0.medium.borrow_mut().flip(name, offset, bit)
    }

    /// Reads bytes as an operator would look at them: without time, and without faults. Fewer than `len` at the end of
    /// the file; `None` if there is no such file.
    #[must_use]
    pub fn peek(&self, name: &str, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let have = self.0.medium.borrow().peek(name, offset, &mut bytes)?;
        bytes.truncate(have);
        Some(bytes)
    }

    /// All names, sorted, with the lengths of their files in bytes.
    #[must_use]
    pub fn files(&self) -> Vec<(String, u64)> {
        self.0.medium.borrow().files()
    }

    /// Cuts off what is in flight and, if the power went, loses what was not synced.
    pub(crate) fn crash(&self, crash: Crash) {
        let in_flight = self.0.in_flight.take();
        let mut medium = self.0.medium.borrow_mut();
        let mut effects: Vec<Effect> = in_flight.into_values().map(|(_, effect)| effect).collect();
        let mut random = self.0.random.borrow_mut();
        while !effects.is_empty() {
            let effect = effects.swap_remove(random.below(effects.len() as u64) as usize);
            if random.chance(1, 2) {
                medium.happened(kinds::OPERATION_INTERRUPTED);
                effect(&mut medium, Ending::Interrupted);
            }
        }
        medium.faults.process_ended();
        if crash == Crash::Power {
            medium.lose_power();
        }
    }

    fn stamp(&self) -> u64 {
        self.0.medium.borrow().stamp()
    }

    fn latency(&self, operation: Operation, bytes: usize) -> Duration {
        let mut random = self.0.random.borrow_mut();
        let mut ns = random.between(LATENCY_NS_MIN, LATENCY_NS_MAX) + bytes as u64 / BYTES_PER_NS;
        if matches!(operation, Operation::Sync | Operation::SyncDir | Operation::Write) {
            ns += random.below(SYNC_NS_MAX);
        }
        if random.chance(1, SLOW_ONE_IN) {
            ns *= SLOW_FACTOR;
        }
        Duration::from_nanos(ns)
    }

    /// Issues an operation: an event that does `effect` to the medium later, whoever still waits for it.
    async fn issue<T: 'static>(&self, request: Request, effect: impl FnOnce(&mut Medium, Ending) -> T + 'static) -> T {
        let device = &self.0;
        if device.executor.is_dying() {
            // A destructor of a killed process: the kernel never hears of it.
            return std::future::pending().await;
        }
        device.executor.record(request.operation.name(), request.subject, request.detail);
        let (completer, completion) = completion();
        let effect: Effect = Box::new(move |medium, ending| completer.complete(effect(medium, ending)));
        let number = {
            let mut issued = device.issued.borrow_mut();
            *issued += 1;
            *issued
        };
        device.in_flight.borrow_mut().insert(number, (request.operation, effect));
        let delay = self.latency(request.operation, request.transfer_bytes);
        let hold = device.medium.borrow_mut().faults.hold(device.executor.now(), &mut device.random.borrow_mut());
        let happened = |kind| device.medium.borrow().happened(kind);
        let extra = match hold {
            Hold::No => Some(Duration::ZERO),
            Hold::Slow(extra) => {
                happened(kinds::OPERATION_SLOW);
                Some(extra)
            }
            Hold::Stalled(lasts) => {
                happened(kinds::OPERATION_STALLED);
                lasts
            }
        };
        if let Some(extra) = extra {
            let disk = self.clone();
            device.executor.schedule(delay + extra, move || disk.complete(number));
        }
        completion.await
    }

    fn complete(&self, number: u64) {
        // A crash may have taken it.
        let Some((operation, effect)) = self.0.in_flight.borrow_mut().remove(&number) else { return };
        let mut medium = self.0.medium.borrow_mut();
        let ending = medium.ending_of(operation);
        effect(&mut medium, ending);
    }

    async fn handle(
        &self,
        operation: Operation,
        name: &str,
        effect: impl FnOnce(&mut Medium, Ending, &str) -> io::Result<(u64, OpenToken)> + 'static,
    ) -> io::Result<SimFile> {
        let request = Request::by_name(operation, name);
        let name = name.to_owned();
        let (number, open) = self.issue(request, move |medium, ending| effect(medium, ending, &name)).await?;
        Ok(SimFile { disk: self.clone(), number, _open: open })
    }
}

/// A simulated disk as the node has it: given up when it does not answer.
pub type WatchedDisk = Deadline<SimDisk>;

/// What the trace and the clock need to know of an operation.
struct Request {
    operation: Operation,
    subject: u64,
    detail: u64,
    transfer_bytes: usize,
}

impl Request {
    fn by_name(operation: Operation, name: &str) -> Request {
        let whole = name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        assert!(whole, "names are relative and without dots: {name:?}");
        Request::by_directory(operation, name)
    }

    fn by_directory(operation: Operation, dir: &str) -> Request {
        Request { operation, subject: checksum(dir.as_bytes()) & 0xff_ffff, detail: 0, transfer_bytes: 0 }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    async fn create(&self, name: &str, preallocate_bytes: u64) -> io::Result<SimFile> {
        let bytes = preallocate_bytes.next_multiple_of(SECTOR_BYTES as u64);
        self.handle(Operation::Create, name, move |medium, ending, name| medium.create(ending, name, bytes)).await
    }

    async fn open(&self, name: &str) -> io::Result<SimFile> {
        self.handle(Operation::Open, name, |medium, ending, name| medium.open(ending, name)).await
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let (request, dir) = (Request::by_directory(Operation::List, dir), dir.to_owned());
        self.issue(request, move |medium, ending| medium.list(ending, &dir)).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let (request, name) = (Request::by_name(Operation::Remove, name), name.to_owned());
        self.issue(request, move |medium, ending| medium.remove(ending, &name)).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (request, from, to) = (Request::by_name(Operation::Rename, to), from.to_owned(), to.to_owned());
        self.issue(request, move |medium, ending| medium.rename(ending, &from, &to)).await
    }

    async fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let (request, dir, cut) = (Request::by_directory(Operation::SyncDir, dir), dir.to_owned(), self.stamp());
        self.issue(request, move |medium, ending| medium.sync_dir(ending, &dir, cut)).await
    }

    async fn space(&self) -> io::Result<DiskSpace> {
        self.issue(Request::by_directory(Operation::Space, ""), |medium, _| Ok(medium.space())).await
    }

    fn buffer(&self, len: usize) -> AlignedBuf {
        AlignedBuf::filled(len, GARBAGE)
    }
}

/// An open file of a [`SimDisk`].
#[derive(Clone)]
pub struct SimFile {
    disk: SimDisk,
    number: u64,
    _open: OpenToken,
}

impl SimFile {
    /// Its number. What completes an operation asks a clone for it, and not for the field alone: so it captures the clone,
    /// and the file stays open until the operation ends, as a real ring would keep it, whoever waits no more.
    fn number(&self) -> u64 {
        self.number
    }

    fn request(&self, operation: Operation, offset: u64, bytes: u64) -> Request {
        let aligned = offset.is_multiple_of(SECTOR_BYTES as u64) && bytes.is_multiple_of(SECTOR_BYTES as u64);
        assert!(aligned, "direct I/O wants whole sectors: {operation:?} of {bytes} bytes at {offset}");
        let transfer_bytes = if matches!(operation, Operation::Read | Operation::Write) { bytes as usize } else { 0 };
        Request { operation, subject: self.number, detail: offset ^ bytes << 32, transfer_bytes }
    }

    async fn write(&self, buf: AlignedBuf, offset: u64, cut: Option<u64>) -> (io::Result<()>, AlignedBuf) {
        let mut request = self.request(Operation::Write, offset, buf.len() as u64);
        request.detail ^= checksum(&buf);
        let file = self.clone();
        let effect = move |medium: &mut Medium, ending| {
            let result = medium.write(ending, file.number(), (offset, &buf), cut);
            (result, buf)
        };
        self.disk.issue(request, effect).await
    }
}

impl DiskFile for SimFile {
    async fn read_at(&self, mut buf: AlignedBuf, offset: u64) -> (io::Result<usize>, AlignedBuf) {
        let request = self.request(Operation::Read, offset, buf.len() as u64);
        let file = self.clone();
        let effect = move |medium: &mut Medium, ending| {
            let result = medium.read(ending, file.number(), offset, &mut buf);
            let have = result.as_ref().map_or(0, |have| *have);
            buf[have..].fill(GARBAGE);
            (result, buf)
        };
        self.disk.issue(request, effect).await
    }

    async fn write_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        self.write(buf, offset, None).await
    }

    async fn write_durable_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        self.write(buf, offset, Some(self.disk.stamp())).await
    }

    async fn sync(&self) -> io::Result<()> {
        let (file, cut) = (self.clone(), self.disk.stamp());
        let request = self.request(Operation::Sync, 0, 0);
        self.disk.issue(request, move |medium, ending| medium.sync(ending, file.number(), cut)).await
    }

    async fn set_len(&self, bytes: u64) -> io::Result<()> {
        let (file, request) = (self.clone(), self.request(Operation::SetLen, 0, bytes));
        self.disk.issue(request, move |medium, ending| medium.set_len(ending, file.number(), bytes)).await
    }

    async fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let (file, request) = (self.clone(), self.request(Operation::Punch, offset, bytes));
        self.disk.issue(request, move |medium, ending| medium.punch(ending, file.number(), offset, bytes)).await
    }

    async fn len(&self) -> io::Result<u64> {
        let (file, request) = (self.clone(), self.request(Operation::Len, 0, 0));
        self.disk.issue(request, move |medium, ending| medium.len(ending, file.number())).await
    }
}
