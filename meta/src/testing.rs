//! What the tests run on: a first-in-first-out executor that can be stopped after any number of steps, and a disk in
//! memory that loses what was not synced.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use proto::checksum::digest;
use proto::disk::{SEAL_TAG_BYTES, WRAPPED_KEY_BYTES};
use proto::limits::SECTOR_BYTES;
use proto::port::{
    AlignedBuf, Cipher, Clock, Disk, DiskFile, DiskSpace, Entropy, KeyError, KeyProvider, LocalFuture, OpenError,
    Spawn, WrappedKey, runtime,
};

/// Freezes an encoding: `dump` is the golden form, 32 bytes a line in hexadecimal.
pub(crate) fn golden(what: &str, bytes: &[u8], dump: &str) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: Vec<String> = bytes.chunks(32).map(hex).collect();
    assert_eq!(lines, dump.lines().collect::<Vec<_>>(), "{what} changed its layout:\n{}", lines.join("\n"));
}

/// A small generator of numbers, the same for the same seed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// The next number (SplitMix64).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Tasks of one run, in the order in which they became ready.
struct Tasks {
    tasks: RefCell<Vec<Option<LocalFuture<()>>>>,
    ready: Arc<Mutex<VecDeque<usize>>>,
    rng: RefCell<Rng>,
    now: Cell<Duration>,
}

struct TaskWaker {
    task: usize,
    ready: Arc<Mutex<VecDeque<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap().push_back(self.task);
    }
}

impl Spawn for Tasks {
    fn spawn(&self, task: LocalFuture<()>) {
        let mut tasks = self.tasks.borrow_mut();
        tasks.push(Some(task));
        self.ready.lock().unwrap().push_back(tasks.len() - 1);
    }
}

impl Clock for Tasks {
    fn monotonic(&self) -> Duration {
        self.now.get()
    }
    fn unix_ns(&self) -> u64 {
        1_000_000_000 + self.now.get().as_nanos() as u64
    }
    fn sleep(&self, duration: Duration) -> LocalFuture<()> {
        self.now.set(self.now.get() + duration);
        Box::pin(yield_once())
    }
}

impl Entropy for Tasks {
    fn fill(&self, out: &mut [u8]) {
        let mut rng = self.rng.borrow_mut();
        out.iter_mut().for_each(|byte| *byte = rng.next() as u8);
    }
}

/// Pending once, ready then.
fn yield_once() -> impl Future<Output = ()> {
    let mut yielded = false;
    std::future::poll_fn(move |context: &mut Context<'_>| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Runs `main` and all tasks that it spawns, for at most `steps_max` polls; then everything is dropped where it stands.
/// Returns what `main` returned, if it came to that.
pub(crate) fn run_for<T: 'static>(seed: u64, steps_max: usize, main: impl Future<Output = T> + 'static) -> Option<T> {
    let tasks = Rc::new(Tasks {
        tasks: RefCell::default(),
        ready: Arc::default(),
        rng: RefCell::new(Rng(seed)),
        now: Cell::default(),
    });
    let _entered = runtime::enter(tasks.clone());
    let result = Rc::new(RefCell::new(None));
    let keep = Rc::clone(&result);
    tasks.spawn(Box::pin(async move {
        let value = main.await;
        *keep.borrow_mut() = Some(value);
    }));
    for _ in 0..steps_max {
        let next = tasks.ready.lock().unwrap().pop_front();
        let Some(task) = next else { panic!("all tasks wait for ever") };
        let future = tasks.tasks.borrow_mut()[task].take();
        let Some(mut future) = future else { continue };
        let waker = Waker::from(Arc::new(TaskWaker { task, ready: Arc::clone(&tasks.ready) }));
        if Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending() {
            tasks.tasks.borrow_mut()[task] = Some(future);
        }
        if result.borrow().is_some() {
            break;
        }
    }
    let abandoned = std::mem::take(&mut *tasks.tasks.borrow_mut());
    drop(abandoned);
    result.take()
}

/// Runs `main` to its end.
pub(crate) fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    run_for(1, usize::MAX, main).expect("the run has no end but main's")
}

/// A cipher that is no secret, but notices every change of key, nonce, associated data and bytes.
struct TestCipher([u8; 32]);

impl TestCipher {
    fn tag(&self, nonce: &[u8; 12], associated: &[u8], sealed: &[u8]) -> [u8; SEAL_TAG_BYTES] {
        let parts = [&self.0[..], nonce, &(associated.len() as u64).to_le_bytes(), associated, sealed];
        digest(&parts.concat()).to_le_bytes()
    }

    fn mask(&self, nonce: &[u8; 12], bytes: &mut [u8]) {
        let mask = digest(&[&self.0[..], nonce].concat()).to_le_bytes();
        bytes.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
}

impl Cipher for TestCipher {
    fn seal(&self, nonce: &[u8; 12], associated: &[u8], bytes: &mut [u8]) -> [u8; SEAL_TAG_BYTES] {
        self.mask(nonce, bytes);
        self.tag(nonce, associated, bytes)
    }

    fn open<'a>(&self, nonce: &[u8; 12], associated: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let at = sealed.len().checked_sub(SEAL_TAG_BYTES).ok_or(OpenError)?;
        let (bytes, tag) = sealed.split_at_mut(at);
        if self.tag(nonce, associated, bytes) != tag {
            return Err(OpenError);
        }
        self.mask(nonce, bytes);
        Ok(bytes)
    }
}

/// One ring key.
pub(crate) struct TestKeys(pub(crate) u8);

impl KeyProvider for TestKeys {
    fn wrap(&self, key: &[u8; 32], nonce: [u8; 12], context: &[u8]) -> WrappedKey {
        let mut wrapped = [0; WRAPPED_KEY_BYTES];
        wrapped[..32].copy_from_slice(key);
        let tag = TestCipher([self.0; 32]).seal(&nonce, context, &mut wrapped[..32]);
        wrapped[32..].copy_from_slice(&tag);
        WrappedKey { ring_key: 1, nonce, wrapped }
    }

    fn unwrap(&self, wrapped: &WrappedKey, context: &[u8]) -> Result<[u8; 32], KeyError> {
        let mut sealed = wrapped.wrapped;
        let opened = TestCipher([self.0; 32]).open(&wrapped.nonce, context, &mut sealed);
        let key = opened.map_err(|_| KeyError::WrongKey { number: wrapped.ring_key })?;
        Ok((&*key).try_into().unwrap())
    }

    fn cipher(&self, key: &[u8; 32]) -> Arc<dyn Cipher> {
        Arc::new(TestCipher(*key))
    }
}

type Sector = [u8; SECTOR_BYTES];

/// Sectors and length; sectors that are missing are zeros.
#[derive(Clone, Default, PartialEq)]
struct Bytes {
    sectors: BTreeMap<u64, Box<Sector>>,
    len: u64,
}

#[derive(Clone, Default)]
struct FileState {
    cached: Bytes,
    durable: Bytes,
    dirty: BTreeSet<u64>,
}

impl FileState {
    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            match self.cached.sectors.get(&sector) {
                Some(bytes) => self.durable.sectors.insert(sector, bytes.clone()),
                None => self.durable.sectors.remove(&sector),
            };
        }
        self.durable.len = self.cached.len;
    }
}

type Names = BTreeMap<String, Rc<RefCell<FileState>>>;

#[derive(Default)]
struct DiskState {
    cached: RefCell<Names>,
    durable: RefCell<Names>,
    full: Cell<bool>,
    /// Writes that succeed before one fails.
    writes_until_failure: Cell<Option<u32>>,
    syncs: Cell<u32>,
}

/// A disk in memory. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct MemDisk(Rc<DiskState>);

/// An open file of a [`MemDisk`].
#[derive(Clone)]
pub(crate) struct MemFile {
    disk: MemDisk,
    state: Rc<RefCell<FileState>>,
}

impl MemDisk {
    /// Loses power: of every name and sector that was not synced, the old or the new survives, or a part of it.
    pub(crate) fn crash(&self, rng: &mut Rng) {
        let cached = std::mem::take(&mut *self.0.cached.borrow_mut());
        let durable = self.0.durable.borrow().clone();
        let names: BTreeSet<&String> = cached.keys().chain(durable.keys()).collect();
        let mut survivors = Names::new();
        for name in names {
            let survivor = if rng.below(2) == 0 { cached.get(name) } else { durable.get(name) };
            let Some(file) = survivor else { continue };
            let mut state = file.borrow().clone();
            for sector in std::mem::take(&mut state.dirty) {
                let old = state.durable.sectors.get(&sector).map_or([0; SECTOR_BYTES], |sector| **sector);
                let mut new = state.cached.sectors.get(&sector).map_or([0; SECTOR_BYTES], |sector| **sector);
                match rng.below(3) {
                    0 => continue,
                    1 => {}
                    _ => {
                        let torn = rng.below(SECTOR_BYTES as u64) as usize;
                        new[torn..].copy_from_slice(&old[torn..]);
                    }
                }
                state.durable.sectors.insert(sector, Box::new(new));
            }
            if rng.below(2) == 0 {
                state.durable.len = state.cached.len;
            }
            let len = state.durable.len;
            state.durable.sectors.retain(|sector, _| sector * (SECTOR_BYTES as u64) < len);
            state.cached = state.durable.clone();
            survivors.insert(name.clone(), Rc::new(RefCell::new(state)));
        }
        *self.0.durable.borrow_mut() = survivors.clone();
        *self.0.cached.borrow_mut() = survivors;
    }

    /// A disk with the same contents, all of them durable.
    pub(crate) fn copy(&self) -> MemDisk {
        let copy = MemDisk::default();
        for (name, file) in &*self.0.cached.borrow() {
            let mut state = file.borrow().clone();
            state.durable = state.cached.clone();
            state.dirty.clear();
            copy.0.cached.borrow_mut().insert(name.clone(), Rc::new(RefCell::new(state)));
        }
        *copy.0.durable.borrow_mut() = copy.0.cached.borrow().clone();
        copy
    }

    /// Names of all files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.cached.borrow().keys().cloned().collect()
    }

    /// Changes the bytes of a file, up to its last sector that is not zeros, behind everybody's back.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let files = self.0.cached.borrow();
        let mut file = files[name].borrow_mut();
        let sectors = file.cached.sectors.keys().next_back().map_or(0, |last| *last as usize + 1);
        let mut bytes = vec![0; sectors * SECTOR_BYTES];
        for (sector, held) in &file.cached.sectors {
            bytes[*sector as usize * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(&**held);
        }
        edit(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(SECTOR_BYTES), 0);
        let chunks = bytes.chunks(SECTOR_BYTES).enumerate();
        let sectors = chunks.map(|(sector, chunk)| (sector as u64, Box::new(chunk.try_into().unwrap()))).collect();
        file.cached = Bytes { sectors, len: bytes.len() as u64 };
        file.durable = file.cached.clone();
    }

    /// The bytes of a file, up to its last sector that is not zeros.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let mut copy = Vec::new();
        self.copy().edit(name, |bytes| copy.clone_from(bytes));
        copy
    }

    /// Removes a file behind everybody's back.
    pub(crate) fn lose(&self, name: &str) {
        self.0.cached.borrow_mut().remove(name).expect("the file is there");
        self.0.durable.borrow_mut().remove(name);
    }

    /// Makes reserving space fail, or not.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.full.set(full);
    }

    /// Makes a write fail after `writes` more.
    pub(crate) fn fail_after(&self, writes: u32) {
        self.0.writes_until_failure.set(Some(writes));
    }

    /// Writes and syncs that made something durable.
    pub(crate) fn syncs(&self) -> u32 {
        self.0.syncs.get()
    }

    fn reserve(&self) -> io::Result<()> {
        if self.0.full.get() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn write(&self) -> io::Result<()> {
        match self.0.writes_until_failure.get() {
            Some(0) => return Err(io::Error::other("injected")),
            Some(writes) => self.0.writes_until_failure.set(Some(writes - 1)),
            None => {}
        }
        Ok(())
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    async fn create(&self, name: &str, preallocate_bytes: u64) -> io::Result<MemFile> {
        yield_once().await;
        self.reserve()?;
        let mut names = self.0.cached.borrow_mut();
        if names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut state = FileState::default();
        state.cached.len = preallocate_bytes;
        let state = Rc::new(RefCell::new(state));
        names.insert(name.to_owned(), Rc::clone(&state));
        Ok(MemFile { disk: self.clone(), state })
    }

    async fn open(&self, name: &str) -> io::Result<MemFile> {
        yield_once().await;
        let state = self.0.cached.borrow().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(MemFile { disk: self.clone(), state })
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        yield_once().await;
        let names = self.0.cached.borrow();
        Ok(names.keys().filter_map(|name| name.strip_prefix(dir)?.strip_prefix('/')).map(str::to_owned).collect())
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        yield_once().await;
        self.0.cached.borrow_mut().remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        yield_once().await;
        let mut names = self.0.cached.borrow_mut();
        let file = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.insert(to.to_owned(), file);
        Ok(())
    }

    async fn sync_dir(&self, dir: &str) -> io::Result<()> {
        yield_once().await;
        // Every name lies in the one directory "meta".
        if dir == "meta" {
            *self.0.durable.borrow_mut() = self.0.cached.borrow().clone();
        }
        Ok(())
    }

    async fn space(&self) -> io::Result<DiskSpace> {
        Ok(DiskSpace { total_bytes: 1 << 40, free_bytes: 1 << 40 })
    }

    fn buffer(&self, len: usize) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(len);
        // The port promises nothing about the contents.
        buf.fill(0xee);
        buf
    }
}

impl DiskFile for MemFile {
    async fn read_at(&self, mut buf: AlignedBuf, offset: u64) -> (io::Result<usize>, AlignedBuf) {
        yield_once().await;
        assert!(buf.len().is_multiple_of(SECTOR_BYTES) && offset.is_multiple_of(SECTOR_BYTES as u64));
        let state = self.state.borrow();
        let read = (state.cached.len.saturating_sub(offset)).min(buf.len() as u64) as usize;
        for (index, chunk) in buf[..read].chunks_mut(SECTOR_BYTES).enumerate() {
            match state.cached.sectors.get(&(offset / SECTOR_BYTES as u64 + index as u64)) {
                Some(sector) => chunk.copy_from_slice(&sector[..chunk.len()]),
                None => chunk.fill(0),
            }
        }
        (Ok(read), buf)
    }

    async fn write_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        yield_once().await;
        assert!(buf.len().is_multiple_of(SECTOR_BYTES) && offset.is_multiple_of(SECTOR_BYTES as u64));
        if let Err(error) = self.disk.write() {
            return (Err(error), buf);
        }
        let mut state = self.state.borrow_mut();
        for (index, chunk) in buf.chunks(SECTOR_BYTES).enumerate() {
            let sector = offset / SECTOR_BYTES as u64 + index as u64;
            state.cached.sectors.insert(sector, Box::new(chunk.try_into().unwrap()));
            state.dirty.insert(sector);
        }
        state.cached.len = state.cached.len.max(offset + buf.len() as u64);
        (Ok(()), buf)
    }

    async fn write_durable_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        match self.write_at(buf, offset).await {
            (Ok(()), buf) => (self.sync().await, buf),
            failed => failed,
        }
    }

    async fn sync(&self) -> io::Result<()> {
        yield_once().await;
        self.disk.0.syncs.set(self.disk.0.syncs.get() + 1);
        self.state.borrow_mut().sync();
        Ok(())
    }

    async fn set_len(&self, bytes: u64) -> io::Result<()> {
        yield_once().await;
        let mut state = self.state.borrow_mut();
        if bytes > state.cached.len {
            self.disk.reserve()?;
        }
        state.cached.len = bytes;
        let gone = state.cached.sectors.split_off(&bytes.div_ceil(SECTOR_BYTES as u64));
        state.dirty.extend(gone.keys());
        Ok(())
    }

    async fn punch(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        unreachable!("the log punches no holes")
    }

    async fn len(&self) -> io::Result<u64> {
        yield_once().await;
        Ok(self.state.borrow().cached.len)
    }
}
