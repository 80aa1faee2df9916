//! The server under load: one that runs, or one started for the occasion.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proto::api::{FragmentInfo, Gc, GcRun, Stats};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::sleep;
use crate::data::files_below;
use crate::http::{Connection, Endpoint};
use crate::process::{Memory, cpu_of, memory_of};

/// How often the server is asked whether a collection is done.
const COLLECTION_ASKED_AFTER: Duration = Duration::from_millis(50);

/// Which server, and as whom.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerOptions {
    /// Where dfsd listens.
    #[arg(long, env = "DFS_ENDPOINT", default_value = "http://127.0.0.1:7400", value_name = "URL")]
    url: String,
    /// Access token. Other users of this machine may see it in the list of processes: prefer --token-file.
    #[arg(long, env = "DFS_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// File that holds the access token, such as DATA/root-token of the server. --token wins over it.
    #[arg(long, env = "DFS_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Process of the server on this machine, to tell the CPU time and memory it took.
    #[arg(long, value_name = "PID", conflicts_with = "serve")]
    pid: Option<u32>,
    /// Start a dfsd (the one beside this program) over this data directory, and stop it afterwards; the
    /// directory stays.
    #[arg(long, value_name = "DIR")]
    serve: Option<PathBuf>,
    /// What the started dfsd gets as --cores.
    #[arg(long, visible_alias = "cores", value_name = "N|LIST", requires = "serve")]
    server_cores: Option<String>,
}

/// A server that answers.
pub(crate) struct Server {
    endpoint: Arc<Endpoint>,
    pid: Option<u32>,
    daemon: Option<Daemon>,
}

impl ServerOptions {
    /// Finds or starts the server, and asks it whether it accepts the token.
    pub(crate) fn connect(&self) -> anyhow::Result<Server> {
        let server = match &self.serve {
            Some(data) => self.serve(data)?,
            None => {
                let token = match (&self.token, &self.token_file) {
                    (Some(token), _) if !token.is_empty() => Some(token.clone()),
                    (_, Some(file)) if !file.as_os_str().is_empty() => Some(read_token(file)?),
                    _ => None,
                };
                Server { endpoint: Arc::new(Endpoint::new(&self.url, token)?), pid: self.pid, daemon: None }
            }
        };
        server.stats().with_context(|| {
            format!("no use of dfsd at {}: is it running, and is this its token (--token-file)?", server.endpoint)
        })?;
        server.cpu().context("--pid does not name a process of this machine")?;
        Ok(server)
    }

    /// Starts one more dfsd like that of --serve, over a data directory beside its own.
    ///
    /// # Panics
    /// Without --serve.
    pub(crate) fn connect_beside(&self, suffix: &str) -> anyhow::Result<Server> {
        let mut data = self.serve.clone().expect("invariant: the command line asks for --serve").into_os_string();
        data.push(format!(".{suffix}"));
        self.serve(Path::new(&data))
    }

    /// Whether a dfsd is started, so that it can be started again.
    pub(crate) fn serves(&self) -> bool {
        self.serve.is_some()
    }

    /// Stops the dfsd that was started, starts it again, and forgets what the kernel keeps of its files: what is read
    /// next comes from the disk.
    ///
    /// # Panics
    /// Without --serve.
    pub(crate) fn restart(&self, server: Server) -> anyhow::Result<Server> {
        server.finish()?;
        let data = self.serve.as_ref().expect("invariant: the caller looks whether it serves");
        forget_cached(data)?;
        self.serve(data)
    }

    fn serve(&self, data: &Path) -> anyhow::Result<Server> {
        let daemon = Daemon::start(data, self.server_cores.as_deref())?;
        let endpoint = Endpoint::new(&daemon.url, Some(read_token(&data.join("root-token"))?))?;
        Ok(Server { endpoint: Arc::new(endpoint), pid: Some(daemon.child.id()), daemon: Some(daemon) })
    }
}

/// Has the kernel drop what it caches of all files below a directory, as far as it is on the disk.
fn forget_cached(directory: &Path) -> anyhow::Result<()> {
    for file in files_below(directory)? {
        let opened = File::open(&file.path).with_context(|| file.path.display().to_string())?;
        rustix::fs::fadvise(&opened, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

impl Server {
    /// A new connection.
    pub(crate) fn connection(&self) -> Connection {
        Connection::new(self.endpoint.clone())
    }

    /// What the server holds.
    pub(crate) fn stats(&self) -> anyhow::Result<Stats> {
        Ok(serde_json::from_slice(&self.connection().fetch("GET", "/api/v1/stats")?)?)
    }

    /// CPU time of the server so far; `None` if its process is not known.
    pub(crate) fn cpu(&self) -> std::io::Result<Option<Duration>> {
        self.pid.map(cpu_of).transpose()
    }

    /// Memory of the server; `None` if its process is not known.
    pub(crate) fn memory(&self) -> std::io::Result<Option<Memory>> {
        self.pid.map(memory_of).transpose()
    }

    /// Has garbage collected now, what is alike compressed together, and waits until that is done; `waits` is called now
    /// and then.
    ///
    /// Errors: the collection ended early.
    pub(crate) fn collect(&self, waits: impl Fn()) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let mut ask = || anyhow::Ok(serde_json::from_slice::<Gc>(&connection.fetch("GET", "/api/v1/gc")?)?);
        let before = ask()?;
        let run: GcRun = serde_json::from_slice(&self.connection().fetch("POST", "/api/v1/gc/run?now=true")?)?;
        loop {
            let gc = ask()?;
            if gc.runs_ended >= run.run {
                let why = gc.abort.filter(|_| gc.aborted > before.aborted);
                return why.map_or(Ok(()), |why| Err(anyhow!("the collection ended early: {why}")));
            }
            waits();
            sleep(COLLECTION_ASKED_AFTER);
        }
    }

    /// How scattered a file lies; `target` as for reading it.
    pub(crate) fn fragments(&self, target: &str) -> anyhow::Result<FragmentInfo> {
        Ok(serde_json::from_slice(&self.connection().fetch("GET", &format!("{target}?fragments"))?)?)
    }

    /// Removes a directory and all below it.
    pub(crate) fn remove_tree(&self, path: &str) -> anyhow::Result<()> {
        self.connection().fetch("DELETE", &format!("{}?recursive=true", fs_target(path))).map(drop)
    }

    /// Stops the server if it was started here.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.daemon.take().map_or(Ok(()), Daemon::stop)
    }
}

/// The request target of an absolute path.
pub(crate) fn fs_target(path: &str) -> String {
    format!("/api/v1/fs{}", encode_path(path))
}

/// Percent-encodes a path for use in a request target, as a path or as the value of a parameter.
pub(crate) fn encode_path(path: &str) -> String {
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
    utf8_percent_encode(path, ENCODED).to_string()
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the token file {}", path.display()))?;
    match text.trim() {
        "" => bail!("the token file {} is empty", path.display()),
        token => Ok(token.to_owned()),
    }
}

/// A `dfsd` of ours; killed when dropped.
struct Daemon {
    child: Child,
    url: String,
    /// Hears what it says on standard error until it ends.
    listener: Option<JoinHandle<String>>,
}

impl Daemon {
    fn start(data: &Path, cores: Option<&str>) -> anyhow::Result<Daemon> {
        let program = std::env::current_exe().context("cannot find this program")?.with_file_name("dfsd");
        let mut command = Command::new(&program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        if let Some(cores) = cores {
            command.args(["--cores", cores]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| {
            format!("cannot start {}; build it first (cargo build --release -p server)", program.display())
        })?;
        let stdout = child.stdout.take().expect("invariant: standard output is piped");
        let stderr = child.stderr.take().expect("invariant: standard error is piped");
        let listening = std::thread::Builder::new().name("dfsd stderr".to_owned());
        let listener = listening.spawn(move || listen(stderr)).context("cannot start a thread")?;
        let mut daemon = Daemon { child, url: String::new(), listener: Some(listener) };
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready).context("cannot hear dfsd")?;
        match ready.strip_prefix("dfsd ready: ").and_then(|rest| rest.split(' ').next()) {
            Some(url) => daemon.url = url.to_owned(),
            None => bail!("{} did not start:\n{}", program.display(), daemon.ended()?.1),
        }
        Ok(daemon)
    }

    /// Waits until it has ended; returns how, and what it has said.
    fn ended(&mut self) -> anyhow::Result<(ExitStatus, String)> {
        let status = self.child.wait()?;
        let said = self.listener.take().and_then(|listener| listener.join().ok());
        Ok((status, said.unwrap_or_default()))
    }

    fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("cannot stop dfsd")?;
        let (status, said) = self.ended()?;
        if !status.success() {
            bail!("dfsd ended with {status}:\n{said}");
        }
        Ok(())
    }
}

/// Most that is remembered of what a server says.
const SAID_BYTES_MAX: usize = 64 << 10;

fn listen(stderr: impl Read) -> String {
    let mut said = String::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if said.len() < SAID_BYTES_MAX {
            said.push_str(&line);
            said.push('\n');
        }
    }
    said
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails when it has ended, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
