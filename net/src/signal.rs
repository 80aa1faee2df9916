//! The request to stop: SIGTERM or SIGINT, as something a core awaits.
//!
//! The handlers write to a socket pair whose other end waits in the executor's ring, so the signal wakes the core like
//! any other event. They stay installed for the life of the process: what a repeated request means is the server's
//! choice.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGINT, SIGTERM};

/// Requests to stop this process. One core of a server holds it and tells the others.
pub struct Termination {
    /// Not blocking; shares its socket with `readable`.
    pipe: UnixStream,
    readable: monoio::net::UnixStream,
}

impl Termination {
    /// Takes SIGTERM and SIGINT over from their default, which is to end the process at once.
    ///
    /// Call it on the executor, once.
    ///
    /// # Errors
    /// The limit of open files.
    pub fn install() -> io::Result<Termination> {
        let (pipe, written) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let readable = monoio::net::UnixStream::from_std(pipe.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGTERM, written.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, written)?;
        Ok(Termination { pipe, readable })
    }

    /// Completes when a request has arrived since the last call. Requests before are not lost, and count as one.
    ///
    /// May be dropped and called again without losing a request.
    pub async fn requested(&mut self) {
        loop {
            let mut bytes = [0; 64];
            match self.pipe.read(&mut bytes) {
                Ok(count) => {
                    assert!(count > 0, "invariant: the handlers keep the other end open");
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // If waiting fails (out of memory) the read above decides what to do.
                    let _ = self.readable.readable(true).await;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("the signal pipe cannot be read: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::run;
    use futures_util::poll;
    use rustix::process::{Signal, getpid, kill_process};

    #[test]
    fn each_signal_is_a_request_and_none_is_lost() {
        run(None, async || {
            let mut termination = Termination::install().unwrap();
            for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
                // Dropped while it waits: the request after it is still seen.
                assert!(poll!(Box::pin(termination.requested())).is_pending());
                kill_process(getpid(), signal).unwrap();
                termination.requested().await;
            }
            assert!(poll!(Box::pin(termination.requested())).is_pending());
        })
        .unwrap();
    }
}
