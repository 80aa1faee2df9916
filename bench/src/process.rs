//! What a process has used: CPU time and memory, of this one and of a server's, from /proc.

use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this process, all threads and what the kernel does for them.
pub(crate) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// CPU time of process `pid`, to a hundredth of a second.
///
/// Errors: `NotFound` if there is no such process.
pub(crate) fn cpu_of(pid: u32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Fields 14 and 15 of `/proc/PID/stat`, user and system time. The name in field 2 may hold anything, so count from its
/// end.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident_bytes: u64,
    /// Most that was ever resident.
    pub(crate) resident_bytes_max: u64,
}

/// Memory of process `pid`.
///
/// Errors: `NotFound` if there is no such process.
pub(crate) fn memory_of(pid: u32) -> io::Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    };
    match (field("VmRSS:"), field("VmHWM:")) {
        (Some(resident_bytes), Some(resident_bytes_max)) => Ok(Memory { resident_bytes, resident_bytes_max }),
        _ => Err(io::Error::other(format!("/proc/{pid}/status is not understood"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_whatever_the_process_is_called() {
        let stat = "42 (a) 9 (b c) S 1 2 3 4 5 6 7 8 9 10 123 77 0 0 20 0 1 0";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(cpu_ticks("42 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_used_cpu_and_memory() {
        let pid = std::process::id();
        let memory = memory_of(pid).unwrap();
        assert!(memory.resident_bytes > 1 << 20 && memory.resident_bytes_max >= memory.resident_bytes);
        let mut sum = 0_u64;
        while own_cpu() < Duration::from_millis(30) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(cpu_of(pid).unwrap() >= Duration::from_millis(10));
        assert!(cpu_of(u32::MAX).is_err());
    }
}
