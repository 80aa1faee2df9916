//! Remote paths as people type them.

use client::Client;
use proto::api::Kind;
use proto::path::FsPath;

use crate::failure::Failure;

/// A remote path, and whether it was typed as a directory to put something into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) path: FsPath,
    /// It ends in `/`.
    pub(crate) into: bool,
}

impl Remote {
    /// Reads what was typed; a missing leading `/` is added, because there is no current directory.
    pub(crate) fn parse(text: &str) -> Result<Remote, Failure> {
        let absolute = if text.starts_with('/') { text.to_owned() } else { format!("/{text}") };
        let refuse = |source| Failure::RemotePath { path: text.to_owned(), source };
        if text.is_empty() {
            return Err(Failure::Usage("the remote path is empty; the top directory is '/'".to_owned()));
        }
        Ok(Remote { path: FsPath::parse(&absolute).map_err(refuse)?, into: text.ends_with('/') })
    }

    /// Where something called `name` goes: below this if it is a directory or was typed like one, as `cp` does.
    pub(crate) fn place(self, client: &Client, name: Option<&str>) -> Result<FsPath, Failure> {
        let is_directory = self.into || self.path.names().is_empty() || {
            match client.stat(&self.path) {
                Ok(entry) => entry.kind == Kind::Directory,
                Err(error) if error.is_not_found() => false,
                Err(error) => return Err(Failure::remote(&self.path, error)),
            }
        };
        match (is_directory, name) {
            (false, _) => Ok(self.path),
            (true, Some(name)) => join(&self.path, [name]),
            (true, None) => Err(Failure::Usage(format!("{} is a directory: name the file to write in it", self.path))),
        }
    }
}

/// The path of `names` below `base`.
pub(crate) fn join<'a>(base: &FsPath, names: impl IntoIterator<Item = &'a str>) -> Result<FsPath, Failure> {
    let mut path = base.clone();
    for name in names {
        let refuse = |source| Failure::RemotePath { path: format!("{path}/{name}"), source };
        path = path.join(name).map_err(refuse)?;
    }
    // Joining checks names one by one; the whole may still be too long or too deep.
    let text = path.to_string();
    FsPath::parse(&text).map_err(|source| Failure::RemotePath { path: text, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_paths_are_understood() {
        let parsed = |text: &str| Remote::parse(text).map(|remote| (remote.path.to_string(), remote.into));
        assert_eq!(parsed("/a/b").unwrap(), ("/a/b".into(), false));
        assert_eq!(parsed("a/b/").unwrap(), ("/a/b".into(), true));
        assert_eq!(parsed("/").unwrap(), ("/".into(), true));
        for text in ["", ".", "../a", "/a/../b", "/a\nb"] {
            assert_eq!(parsed(text).unwrap_err().exit_code(), 2, "{text:?}");
        }
    }

    #[test]
    fn every_short_path_is_read_or_refused() {
        const CHARACTERS: [char; 6] = ['/', '.', 'a', 'ü', '\0', '%'];
        for number in 0..CHARACTERS.len().pow(6) {
            // Its digits are the characters; leading ones are left out, so that shorter texts come too.
            let digits = std::iter::successors(Some(number), |rest| Some(rest / CHARACTERS.len()));
            let text: String = digits.take_while(|rest| *rest > 0).map(|rest| CHARACTERS[rest % 6]).collect();
            if let Ok(remote) = Remote::parse(&text) {
                assert_eq!(remote.into, text.ends_with('/'), "{text:?}");
                assert_eq!(FsPath::parse(&remote.path.to_string()), Ok(remote.path), "{text:?}");
            }
        }
    }

    #[test]
    fn a_joined_path_keeps_the_limits_of_a_whole_one() {
        let names = ["x"; 257];
        assert!(join(&FsPath::root(), names).is_err());
        assert_eq!(join(&FsPath::root(), ["a", "b"]).unwrap().to_string(), "/a/b");
    }
}
