//! What every command needs: the client, and where to print.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use client::{Client, ClientOptions};

use crate::arguments::Global;
use crate::failure::Failure;
use crate::output::Output;

/// Bytes of a token file.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Most files in flight, so that each finds its connection open.
const CONNECTIONS_MAX: usize = 64;

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) output: Output,
}

impl Context {
    pub(crate) fn new(global: Global) -> Result<Context, Failure> {
        // A variable that is set to nothing is one that somebody meant to unset.
        let given = global.token.filter(|token| !token.is_empty());
        let token = match (given, global.token_file) {
            (Some(token), _) => Some(token),
            (None, Some(file)) if !file.as_os_str().is_empty() => Some(read_token(&file)?),
            (None, _) => None,
        };
        let options = ClientOptions {
            endpoint: global.endpoint,
            token,
            idle_connections_max: CONNECTIONS_MAX,
            ..ClientOptions::default()
        };
        let client = Client::new(options).map_err(Failure::Client)?;
        Ok(Context { client, output: Output { json: global.json, quiet: global.quiet } })
    }
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|source| Failure::local("read the token file", path, source))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::Usage(format!("the token file {} is empty", path.display())));
    }
    Ok(token.to_owned())
}
