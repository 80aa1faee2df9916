//! Listening: one socket per core on one address, never shared with another server by accident.
//!
//! Several cores listen on one port through `SO_REUSEPORT`, and so could a second server by mistake, silently taking
//! half of the connections. A probe without that option is refused if anybody listens, so it comes first; a single
//! core needs no sharing and gets none.

use std::io;
use std::net::{SocketAddr, TcpListener};

use monoio_compat::hyper::MonoioIo;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Connections that wait to be accepted, per core; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// An accepted connection: hyper's `Read` and `Write`, and tokio's `AsyncRead` and `AsyncWrite`.
pub type Stream = MonoioIo<monoio::net::tcp::stream_poll::TcpStreamPoll>;

/// Why no socket listens on the address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Stop the other server, or choose another port.
    #[error("{address} is already served by another process")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE.
    #[error("{address} is reserved: choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE")]
    Reserved {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address is not one of this machine, or the kernel has another reason.
    #[error("cannot listen on {address}: {source}")]
    Address {
        /// The address asked for.
        address: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Returns one listening socket for each of `cores`, all on `address`; port 0 takes a free one.
///
/// Send each to its core's thread and give it to [`Listener::new`]. Connections queue from now on.
///
/// # Errors
/// [`BindError`] says what to change.
///
/// # Panics
/// If `cores` is 0.
pub fn bind(address: SocketAddr, cores: usize) -> Result<Vec<TcpListener>, BindError> {
    assert!(cores > 0, "invariant: a server has a core");
    let explain = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        io::ErrorKind::PermissionDenied => BindError::Reserved { address },
        _ => BindError::Address { address, source: error },
    };
    let alone = socket(address, Sharing::Exclusive).map_err(explain)?;
    if cores == 1 {
        return Ok(vec![alone]);
    }
    let address = alone.local_addr().map_err(explain)?;
    drop(alone);
    (0..cores).map(|_| socket(address, Sharing::AmongCores).map_err(explain)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    AmongCores,
}

fn socket(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Only lets a restart pass by connections of the former process that linger; a listening socket still conflicts.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, sharing == Sharing::AmongCores)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A listening socket on its core.
pub struct Listener(monoio::net::TcpListener);

impl Listener {
    /// Takes `socket` over on this core's executor.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn new(socket: TcpListener) -> io::Result<Listener> {
        Ok(Listener(monoio::net::TcpListener::from_std(socket)?))
    }

    /// The address that clients connect to.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Accepts the next connection; small answers leave at once (`TCP_NODELAY`).
    ///
    /// Dropping the future may lose a connection that was just accepted: drop it only to stop listening.
    ///
    /// # Errors
    /// Too many open files, or out of memory: wait a little and call again. Connections that broke before they were
    /// accepted are not errors.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        loop {
            match self.0.accept().await {
                Ok((stream, peer)) => {
                    let stream = stream.try_into_poll_io().map_err(|(error, _)| error)?;
                    // It fails only if the connection is gone, which the first read tells better.
                    let _ = stream.set_nodelay(true);
                    return Ok((MonoioIo::new(stream), peer));
                }
                Err(error) if is_the_connections(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a failed accept says something about one connection only (see accept(2)).
fn is_the_connections(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::EAGAIN
                | libc::ECONNABORTED
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::run;
    use monoio_compat::{AsyncReadExt, AsyncWriteExt};
    use std::io::{Read, Write};

    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn a_served_port_is_refused_even_if_its_server_shares_it() {
        for (first, second) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let served = bind(ANY_PORT, first).unwrap();
            let address = served[0].local_addr().unwrap();
            let error = bind(address, second).unwrap_err();
            assert!(matches!(&error, BindError::InUse { address: named } if *named == address), "{error}");
            drop(served);
            assert_eq!(bind(address, second).unwrap().len(), second, "free again");
        }
    }

    #[test]
    fn each_core_gets_a_socket_on_the_same_port() {
        let sockets = bind(ANY_PORT, 3).unwrap();
        let ports: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = bind("192.0.2.1:0".parse().unwrap(), 1).unwrap_err();
        assert!(matches!(error, BindError::Address { .. }), "{error}");
    }

    #[test]
    fn accepted_streams_carry_bytes_both_ways() {
        let mut sockets = bind(ANY_PORT, 1).unwrap();
        let address = sockets[0].local_addr().unwrap();
        std::thread::scope(|scope| {
            let client = scope.spawn(move || {
                let mut client = std::net::TcpStream::connect(address).unwrap();
                client.write_all(&[3; 100_000]).unwrap();
                client.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).unwrap();
                (client.local_addr().unwrap(), answer)
            });
            let seen = run(None, async || {
                let listener = Listener::new(sockets.remove(0)).unwrap();
                assert_eq!(listener.local_addr().unwrap(), address);
                let (mut stream, peer) = listener.accept().await.unwrap();
                assert!(stream.nodelay().unwrap());
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
                stream.shutdown().await.unwrap();
                peer
            });
            let (peer, answer) = client.join().unwrap();
            assert_eq!((seen.unwrap(), answer), (peer, vec![3; 100_000]));
        });
    }
}
