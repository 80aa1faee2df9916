//! The limit of open files: sockets of clients must never take the descriptors that segments need.

use proto::limits::{CONNECTIONS_MAX, CONNECTIONS_REFUSED_MAX, SEGMENT_FILES_OPEN_MAX};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files of a core besides connections and segments: logs, rings, timers, the listening socket.
const OTHER_FILES_MAX: usize = 128;

/// Raises the soft limit to the hard one, and warns if that is too low for `cores`.
pub(crate) fn raise(cores: usize) {
    let limit = getrlimit(Resource::Nofile);
    // A limit that cannot be raised is as good as one that was not.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let of_a_core = CONNECTIONS_MAX + CONNECTIONS_REFUSED_MAX + SEGMENT_FILES_OPEN_MAX + OTHER_FILES_MAX;
    let wanted = (cores * of_a_core) as u64;
    if files < wanted {
        server::report!(
            "warning: only {files} files may be open, and many connections need up to {wanted}: set \
             LimitNOFILE={wanted} or more in the systemd unit, or raise `ulimit -n`"
        );
    }
}
