//! Starting, stopping, killing and damaging a real `dfsd`.

#![allow(clippy::disallowed_methods, reason = "a process test runs a real dfsd in real time")]

mod daemon;

use std::fs::OpenOptions;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use daemon::{Dfsd, connect, noise, read_answer, serve, serve_on};
use rustix::process::Signal;

/// Runs a `dfsd` that is expected to refuse, to its end.
fn refused(command: &mut std::process::Command) -> String {
    let Output { status, stdout, stderr } = command.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(stdout.is_empty(), "it never said that it is ready");
    said
}

fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_first_start_writes_private_files_and_says_what_matters() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("deep/data");
    std::fs::create_dir(dir.path().join("deep")).unwrap();
    let dfsd = Dfsd::start(&data);
    let token = data.join("root-token");
    let cores = std::thread::available_parallelism().unwrap();
    let expected = format!(
        "dfsd ready: http://{} (token in {}, incarnation 1, {cores} cores, 0 segments, 0 chunks)",
        dfsd.address,
        token.display()
    );
    assert_eq!(dfsd.ready_line, expected);
    for name in ["root-token", "keys"] {
        let mode = std::fs::metadata(data.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
    assert_eq!(dfsd.token.len(), 64);
    let log = dfsd.log();
    assert!(log.contains("redundancy 1+0") && log.contains("same device as the data"), "{log}");
    assert_eq!(dfsd.stop().code(), Some(0));
    let token_before = std::fs::read(&token).unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    let again = Dfsd::start(&data);
    assert!(again.ready_line.contains("incarnation 2"), "{}", again.ready_line);
    assert!(again.log().contains("has mode 644"), "{}", again.log());
    assert_eq!(std::fs::read(&token).unwrap(), token_before);
}

#[test]
fn a_second_dfsd_is_refused_on_the_same_directory_and_on_the_same_port() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let dfsd = Dfsd::start(&data);
    let said = refused(&mut serve(&data));
    assert!(said.contains(&format!("process {}", dfsd.pid())) && said.contains("choose another --data"), "{said}");
    let said = refused(&mut serve_on(dfsd.address, &dir.path().join("other")));
    assert!(said.contains("already served") && said.contains(&dfsd.address.to_string()), "{said}");
    dfsd.put("/api/v1/fs/a", b"still served");
    assert!(!dir.path().join("other/superblock").exists(), "nothing was formatted");
}

#[test]
fn without_its_key_file_data_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let elsewhere = dir.path().join("elsewhere");
    let dfsd = Dfsd::start(&data);
    dfsd.put("/api/v1/fs/a", &noise(1, 100_000));
    dfsd.kill();
    std::fs::rename(data.join("keys"), &elsewhere).unwrap();
    let said = refused(&mut serve(&data));
    assert!(said.contains("key file") && said.contains("missing"), "{said}");
    assert!(!data.join("keys").exists());
    let other = dir.path().join("other-keys");
    std::fs::write(&other, format!("dfs-ring-key v1 1 {}\n", "ab".repeat(32))).unwrap();
    let said = refused(serve(&data).arg("--key-file").arg(&other));
    assert!(said.contains("ring key 1"), "{said}");
    std::fs::write(&other, "rubbish\n").unwrap();
    let said = refused(serve(&data).arg("--key-file").arg(&other));
    assert!(said.contains("line 1"), "{said}");
    std::fs::rename(&elsewhere, data.join("keys")).unwrap();
    assert!(Dfsd::start(&data).get("/api/v1/fs/a").expect(200).body == noise(1, 100_000));
}

#[test]
fn a_large_upload_takes_little_memory() {
    const BYTES: usize = 96 << 20;
    const GROWTH_BYTES_MAX: u64 = 16 << 20;
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    dfsd.put("/api/v1/fs/warm", &noise(1, 1 << 20));
    let before = dfsd.memory_bytes_max();
    let bytes = noise(2, BYTES);
    let stream = dfsd.begin_upload("/api/v1/fs/big", &format!("content-length: {BYTES}\r\nconnection: close\r\n"));
    (&stream).write_all(&bytes).unwrap();
    read_answer(&mut BufReader::new(stream), "PUT").expect(201);
    assert!(dfsd.get("/api/v1/fs/big").expect(200).body == bytes);
    let growth = dfsd.memory_bytes_max() - before;
    assert!(growth < GROWTH_BYTES_MAX, "{growth} more bytes of memory for {BYTES} bytes up and down");
}

#[test]
fn acknowledged_bytes_survive_a_stop_and_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let sizes = [0, 1, 4096, 4097, 70_000, 1_500_000];
    for round in 0..4u64 {
        let dfsd = Dfsd::start(&data);
        for (name, bytes) in &files {
            assert!(dfsd.get(&format!("/api/v1/fs{name}")).expect(200).body == *bytes, "{name} in round {round}");
        }
        for (at, size) in sizes.iter().enumerate() {
            let (name, bytes) = (format!("/round{round}/f{at}"), noise(round * 100 + at as u64, *size));
            dfsd.put(&format!("/api/v1/fs{name}"), &bytes);
            files.push((name, bytes));
        }
        match round % 2 {
            0 => dfsd.kill(),
            _ => assert_eq!(dfsd.stop().code(), Some(0)),
        }
    }
    let dfsd = Dfsd::start(&data);
    for (name, bytes) in &files {
        assert!(dfsd.get(&format!("/api/v1/fs{name}")).expect(200).body == *bytes, "{name}");
    }
}

#[test]
fn a_stop_lets_uploads_finish_and_cuts_those_that_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let dfsd = Dfsd::start(&data);
    let bytes = noise(1, 2_000_000);
    let head = format!("content-length: {}\r\n", bytes.len());
    let idle = connect(dfsd.address);
    let (mut finishing, mut hanging) =
        (dfsd.begin_upload("/api/v1/fs/finished", &head), dfsd.begin_upload("/api/v1/fs/hanging", &head));
    finishing.write_all(&bytes[..1_000_000]).unwrap();
    hanging.write_all(&bytes[..1_000_000]).unwrap();
    // Both uploads, and the request that asks.
    dfsd.await_metric("dfs_requests_in_flight", 3);
    let start = now();
    dfsd.signal(Signal::TERM);
    // The connection that nobody used closes first.
    assert_eq!((&idle).read(&mut [0]).unwrap(), 0);
    finishing.write_all(&bytes[1_000_000..]).unwrap();
    let mut reader = BufReader::new(finishing);
    read_answer(&mut reader, "PUT").expect(201);
    assert!(std::net::TcpStream::connect(dfsd.address).is_err(), "nothing new is accepted");
    assert_eq!(dfsd.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let dfsd = Dfsd::start(&data);
    assert!(dfsd.get("/api/v1/fs/finished").expect(200).body == bytes);
    dfsd.get("/api/v1/fs/hanging").refused(404, "not_found");
}

#[test]
fn a_second_signal_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    let _hanging = dfsd.begin_upload("/api/v1/fs/hanging", "content-length: 5\r\n");
    dfsd.await_metric("dfs_requests_in_flight", 2);
    let idle = connect(dfsd.address);
    let start = now();
    dfsd.signal(Signal::INT);
    // Once this closes, the first signal was seen.
    assert_eq!((&idle).read(&mut [0]).unwrap(), 0);
    dfsd.signal(Signal::INT);
    assert_eq!(dfsd.wait().code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// The segment files under `data`.
fn segment_files(data: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data.join("segments")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

#[test]
fn a_damaged_byte_is_named_and_never_served() {
    const PART: usize = 16 << 10;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let dfsd = Dfsd::start(&data);
    let bytes = noise(1, 2 << 20);
    dfsd.put("/api/v1/fs/dir/f", &bytes);
    // In the middle of what was written lies payload: headers and tables are a few of a thousand bytes.
    let [segment] = &segment_files(&data)[..] else { panic!("one segment holds one small file") };
    let stored = std::fs::read(segment).unwrap();
    let written = stored.iter().rposition(|byte| *byte != 0).unwrap();
    let at = written / 2;
    let file = OpenOptions::new().write(true).open(segment).unwrap();
    file.write_all_at(&[stored[at] ^ 1], at as u64).unwrap();
    file.sync_all().unwrap();

    let mut damaged = 0;
    for start in (0..bytes.len()).step_by(PART) {
        let range = format!("bytes={start}-{}", start + PART - 1);
        let answer = dfsd.call("GET", "/api/v1/fs/dir/f", &[("range", &range)]);
        if answer.status == 206 {
            assert!(answer.is_whole && answer.body == bytes[start..start + PART], "wrong bytes were served at {start}");
            continue;
        }
        // A short answer is verified before its head is sent, so the refusal is always a plain one.
        damaged += 1;
        let message = answer.refused(500, "damaged");
        assert!(message.starts_with("/dir/f is damaged in bytes "), "{message}");
        let named = message.trim_start_matches("/dir/f is damaged in bytes ").split(':').next().unwrap();
        let (first, last) = named.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        assert!(first <= last && last < bytes.len() && last - first < 128 << 10, "{message}");
        assert!(first < start + PART && last >= start, "{message} does not meet {range}");
    }
    assert!((1..=9).contains(&damaged), "{damaged} parts of one chunk are damaged");
    let whole = dfsd.get("/api/v1/fs/dir/f");
    assert!(!whole.is_whole, "a body that breaks off never looks whole");
    assert!(bytes.starts_with(&whole.body));
    assert!(dfsd.log().contains("/dir/f is damaged in bytes"), "{}", dfsd.log());
    // The service goes on, and a new copy of the same bytes heals the file.
    dfsd.put("/api/v1/fs/dir/f", &bytes);
    assert!(dfsd.get("/api/v1/fs/dir/f").expect(200).body == bytes);
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let dfsd = Dfsd::start_saying_to(&data, &[], full());
    let bytes = noise(1, 2 << 20);
    dfsd.put("/api/v1/fs/dir/f", &bytes);
    let [segment] = &segment_files(&data)[..] else { panic!("one segment holds one small file") };
    let stored = std::fs::read(segment).unwrap();
    let at = stored.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    let file = OpenOptions::new().write(true).open(segment).unwrap();
    file.write_all_at(&[stored[at] ^ 1], at as u64).unwrap();
    file.sync_all().unwrap();
    assert!(!dfsd.get("/api/v1/fs/dir/f").is_whole, "it has something to say");
    dfsd.get("/healthz").expect(200);
    assert_eq!(dfsd.stop().code(), Some(0));
}

#[test]
fn what_somebody_appended_to_a_segment_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let bytes = noise(1, 2 << 20);
    for (round, appended) in [1, 1000, 4095].into_iter().enumerate() {
        let dfsd = Dfsd::start(&data);
        dfsd.put(&format!("/api/v1/fs/{round}"), &[&bytes[..], &noise(round as u64 + 2, 1 << 20)].concat());
        // With a footer, and without one.
        if round == 1 {
            dfsd.kill();
        } else {
            assert_eq!(dfsd.stop().code(), Some(0));
        }
        for segment in segment_files(&data) {
            OpenOptions::new().append(true).open(segment).unwrap().write_all(&vec![7; appended]).unwrap();
        }
        let dfsd = Dfsd::start(&data);
        for round in 0..=round {
            assert!(dfsd.get(&format!("/api/v1/fs/{round}")).expect(200).body.starts_with(&bytes), "{appended}");
        }
    }
}
