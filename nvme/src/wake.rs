//! Waiting for the ring's eventfd on the executor's own ring.

use std::io;
use std::os::fd::OwnedFd;

/// Calls `on_wake` each time `eventfd` was signalled, until it answers `false`.
///
/// The read waits in the executor's ring, so an idle core sleeps in one system call for sockets, timers and storage.
///
/// # Panics
/// If the eventfd cannot be read: completions would be lost silently.
pub(crate) async fn follow(eventfd: OwnedFd, on_wake: impl Fn() -> bool) {
    let file = monoio::fs::File::from_std(std::fs::File::from(eventfd)).expect("an eventfd is a file");
    let mut count = vec![0; size_of::<u64>()];
    loop {
        let (read, buf) = file.read_at(count, 0).await;
        count = buf;
        match read {
            Ok(_) if !on_wake() => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("the storage ring's eventfd cannot be read: {error}"),
        }
    }
}
