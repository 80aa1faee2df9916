//! Large uploads, cut by kills: they leave nothing, and meanwhile they take little memory.

use std::io::{self, Read};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use chaos::nemesis::content::{Content, Source, Texture};
use chaos::nemesis::daemon::Site;
use chaos::sim::Random;
use client::{Attributes, Client, Upload};
use proto::path::FsPath;

use crate::binary::binary;
use crate::seed;

/// Clients that upload at the same time.
const UPLOADERS: u64 = 8;
/// Bytes of each upload, at least and at most.
const UPLOAD_BYTES: (u64, u64) = (6 << 20, 12 << 20);
/// Bytes that all uploads together have sent when the kill comes, at least and at most.
const SENT_BYTES: (u64, u64) = (24 << 20, 96 << 20);
/// Memory that the server may take meanwhile.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Kills in the midst of uploads.
const ROUNDS: u64 = 4;
/// Longest wait for a byte to be taken: far longer than any should take.
const SILENCE_MAX: Duration = Duration::from_secs(60);

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

/// One client's file: what it holds, and what it may hold as well since an upload was cut.
#[derive(Default)]
struct File {
    holds: Option<Content>,
    open: Option<Content>,
}

/// Uploads one large file after the other to the same path, until the server is gone.
fn upload(client: &Client, path: &FsPath, file: &mut File, mut random: Random, sent: &Sender<u64>) {
    loop {
        let bytes = random.between(UPLOAD_BYTES.0, UPLOAD_BYTES.1);
        let content = Content { seed: random.next_u64(), bytes, texture: Texture::Unique };
        let mut metered = Metered { source: content.source(), sent };
        match client.put(path, Upload::stream(&mut metered, Some(bytes)), &Attributes::default()) {
            Ok(_) => file.holds = Some(content),
            Err(_) => {
                file.open = Some(content);
                return;
            }
        }
    }
}

/// Compares a file with what it may hold, which it settles.
fn settle(client: &Client, path: &FsPath, file: &mut File) {
    let holds = |content: &Content| match client.get(path, None) {
        Ok(mut download) if download.head().size == content.bytes => {
            content.compare(0, content.bytes, &mut download).is_ok()
        }
        Ok(_) => false,
        Err(error) if error.is_not_found() => false,
        Err(error) => panic!("{path}: {error:?}"),
    };
    let open = file.open.take().filter(|content| holds(content));
    match (open, file.holds) {
        (Some(content), _) => file.holds = Some(content),
        (None, Some(content)) => assert!(holds(&content), "{path} is neither {content:?} nor what came after it"),
        (None, None) => assert!(client.stat(path).is_err_and(|error| error.is_not_found()), "{path} is half there"),
    }
}

#[test]
fn large_uploads_cut_by_kills_leave_nothing_and_take_little_memory() {
    let mut random = Random::new(seed("uploads"));
    let directory = tempfile::tempdir().unwrap();
    let site = Site::new(&binary("dfsd"), &directory.path().join("data"), &directory.path().join("log"));
    let path = |number: usize| FsPath::parse(&format!("/uploads/{number}")).unwrap();
    let mut files: Vec<File> = (0..UPLOADERS).map(|_| File::default()).collect();
    let mut daemon = site.serve().unwrap();
    for round in 0..ROUNDS {
        let client = site.hasty_client().unwrap();
        let (sender, sent) = channel();
        let (wanted, mut seen) = (random.between(SENT_BYTES.0, SENT_BYTES.1), 0);
        let working = std::thread::scope(|scope| {
            for (number, file) in files.iter_mut().enumerate() {
                let (path, random, client, sender) = (path(number), random.fork(), &client, &sender);
                scope.spawn(move || upload(client, &path, file, random, sender));
            }
            while seen < wanted
                && let Ok(bytes) = sent.recv_timeout(SILENCE_MAX)
            {
                seen += bytes;
            }
            let memory = daemon.memory_bytes_max();
            daemon.kill(|| {}).unwrap();
            memory
        });
        assert!(seen >= wanted, "round {round}: no byte was taken for {SILENCE_MAX:?}");
        daemon = site.serve().unwrap();
        let client = site.hasty_client().unwrap();
        files.iter_mut().enumerate().for_each(|(number, file)| settle(&client, &path(number), file));
        let verifying = daemon.memory_bytes_max();
        println!("round {round}: {working} bytes of memory after {seen} bytes of uploads, {verifying} after reading");
        assert!(working.max(verifying) < MEMORY_BYTES_MAX, "round {round}: {working}, {verifying} bytes of memory");
    }
    assert!(files.iter().any(|file| file.holds.is_some()), "the kills let some uploads through");
    daemon.stop().unwrap();
}
