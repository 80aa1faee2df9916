//! The root token: made once, then read.

#![expect(clippy::disallowed_methods, reason = "files of the operator, before any core runs")]

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use proto::port::runtime;
use server::Token;

use crate::durable;

/// Name of the file in the first data directory.
const TOKEN_NAME: &str = "root-token";

/// Reads the token of `directory`, or makes one. Returns it with the path of its file.
pub(crate) fn open(directory: &Path) -> anyhow::Result<(Token, PathBuf)> {
    let path = directory.join(TOKEN_NAME);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let digits: String = runtime::random::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
            let made = durable::create_secret(&path, format!("{digits}\n").as_bytes());
            made.with_context(|| format!("cannot write {}", path.display()))?;
            digits
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    durable::warn_if_exposed("the token file", &path)?;
    match Token::new(text.trim()) {
        Some(token) => Ok((token, path)),
        None => bail!(
            "{} holds no usable token (at least {} visible ASCII characters); remove it to have a new one made",
            path.display(),
            Token::CHARS_MIN
        ),
    }
}
