//! Passes over files: each is stored or restored, several at a time, and what it took is measured.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::clock::time;
use crate::data::{SourceFile, content_of};
use crate::http::{Answer, Body, Connection, Request, Sink};
use crate::process::own_cpu;
use crate::report::spinner;
use crate::server::Server;

/// One pass over files.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pass {
    pub(crate) pass: &'static str,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) bytes_per_s: f64,
    pub(crate) client_cpu_s: f64,
    pub(crate) server_cpu_s: Option<f64>,
    pub(crate) server_cpu_s_per_gb: Option<f64>,
}

impl Pass {
    /// The pass over `bytes` that `work` makes.
    pub(crate) fn measured<T>(
        pass: &'static str,
        bytes: u64,
        server: &Server,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(Pass, T)> {
        let (client_before, server_before) = (own_cpu(), server.cpu()?);
        let (seconds, done) = time(work);
        let done = done?;
        let server_cpu = server.cpu()?.zip(server_before).map(|(after, before)| (after - before).as_secs_f64());
        let pass = Pass {
            pass,
            bytes,
            seconds,
            bytes_per_s: bytes as f64 / seconds,
            client_cpu_s: (own_cpu() - client_before).as_secs_f64(),
            server_cpu_s: server_cpu,
            server_cpu_s_per_gb: server_cpu.map(|seconds| seconds / (bytes as f64 / 1e9)),
        };
        Ok((pass, done))
    }

    /// Both passes as one, one after the other.
    pub(crate) fn joined(&self, next: &Pass) -> Pass {
        let (bytes, seconds) = (self.bytes + next.bytes, self.seconds + next.seconds);
        let server_cpu = self.server_cpu_s.zip(next.server_cpu_s).map(|(first, second)| first + second);
        Pass {
            pass: self.pass,
            bytes,
            seconds,
            bytes_per_s: bytes as f64 / seconds,
            client_cpu_s: self.client_cpu_s + next.client_cpu_s,
            server_cpu_s: server_cpu,
            server_cpu_s_per_gb: server_cpu.map(|seconds| seconds / (bytes as f64 / 1e9)),
        }
    }
}

/// Does `work` to every file, `concurrency` at a time, and measures. What fails is noted.
pub(crate) fn over(
    pass: &'static str,
    server: &Server,
    files: &[SourceFile],
    concurrency: u16,
    work: &(impl Fn(&mut Connection, &SourceFile) -> anyhow::Result<()> + Sync),
    failures: &mut Vec<String>,
) -> anyhow::Result<Pass> {
    let next = AtomicUsize::new(0);
    let progress = spinner();
    let failed = Mutex::new(std::mem::take(failures));
    let bytes = files.iter().map(|file| file.bytes).sum();
    let (measured, ()) = Pass::measured(pass, bytes, server, || {
        std::thread::scope(|scope| {
            for _ in 0..concurrency {
                scope.spawn(|| {
                    let mut connection = server.connection();
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        progress.set_message(format!("{pass}: {}", file.name));
                        progress.tick();
                        if let Err(error) = work(&mut connection, file) {
                            let mut failed = failed.lock().expect("invariant: nobody panics with the lock");
                            failed.push(format!("{pass}: {}: {error:#}", file.name));
                        }
                    }
                });
            }
        });
        Ok(())
    })?;
    progress.finish_and_clear();
    *failures = failed.into_inner().expect("invariant: nobody panics with the lock");
    Ok(measured)
}

/// Has garbage collected and what is alike compressed together; the pass is over `bytes`.
pub(crate) fn collect(pass: &'static str, server: &Server, bytes: u64) -> anyhow::Result<Pass> {
    let progress = spinner();
    progress.set_message(pass);
    let (pass, ()) = Pass::measured(pass, bytes, server, || server.collect(|| progress.tick()))?;
    progress.finish_and_clear();
    Ok(pass)
}

/// Writes a file.
pub(crate) fn store(connection: &mut Connection, file: &SourceFile, target: &str) -> anyhow::Result<()> {
    let mut content = content_of(file)?;
    let body: &mut dyn Body = &mut content;
    let answer = connection.call(Request { method: "PUT", target, body: Some(body) }, Sink::Discard)?;
    accepted(&answer)
}

/// Insists on success.
pub(crate) fn accepted(answer: &Answer) -> anyhow::Result<()> {
    let code = answer.code.as_deref().unwrap_or_default();
    ensure!(answer.is_success(), "the server answered {} {code}", answer.status);
    Ok(())
}

/// Reads a file back and compares it with the original, byte for byte, as it arrives.
pub(crate) fn restore(connection: &mut Connection, file: &SourceFile, target: &str) -> anyhow::Result<()> {
    let mut original = File::open(&file.path).with_context(|| file.path.display().to_string())?;
    let mut expected = Vec::new();
    let mut compared_bytes = 0;
    let mut compare = |bytes: &[u8]| {
        expected.resize(bytes.len(), 0);
        original.read_exact(&mut expected)?;
        if expected != bytes {
            let what = format!("differs in the {} bytes from byte {compared_bytes} on", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        compared_bytes += bytes.len() as u64;
        Ok(())
    };
    let answer = connection.call(Request { method: "GET", target, body: None }, Sink::Read(&mut compare))?;
    accepted(&answer)?;
    ensure!(answer.body_bytes == file.bytes, "{} of {} bytes came back", answer.body_bytes, file.bytes);
    Ok(())
}
