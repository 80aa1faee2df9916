//! What a path may look like.
//!
//! A path is UTF-8, starts with `/`, and has no empty, `.` or `..` component and no NUL or other control character.
//! Its normal form has single slashes between its names and none at the end; other spellings are folded into it.
//!
//! Names are compared byte for byte, without Unicode normalisation: file systems hold names that only differ in it, and
//! one of them would overwrite the other. So a tree that is stored comes back name by name as it was.

use std::fmt;

use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};

/// A checked absolute path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FsPath {
    names: Vec<String>,
}

/// Why a path was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Send a path that starts with `/`.
    #[error("the path must start with '/'")]
    NotAbsolute,
    /// Shorten the path.
    #[error("the path has more than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// Use fewer directories.
    #[error("the path has more than {PATH_DEPTH_MAX} components")]
    TooDeep,
    /// Shorten this name.
    #[error("the name {0:?} has more than {NAME_BYTES_MAX} bytes")]
    NameTooLong(String),
    /// Resolve `.` and `..` before sending.
    #[error("'.' and '..' are not allowed as names; send the resolved path")]
    Dots,
    /// Remove NUL and control characters.
    #[error("the name {0:?} holds a NUL or control character")]
    ControlCharacter(String),
}

impl FsPath {
    /// The root directory.
    #[must_use]
    pub fn root() -> FsPath {
        FsPath::default()
    }

    /// Checks and folds `text`.
    ///
    /// # Errors
    /// [`PathError`] names what to change.
    pub fn parse(text: &str) -> Result<FsPath, PathError> {
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let relative = text.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        let mut names = Vec::new();
        for name in relative.split('/').filter(|name| !name.is_empty()) {
            check_name(name)?;
            names.push(name.to_owned());
        }
        if names.len() > PATH_DEPTH_MAX {
            return Err(PathError::TooDeep);
        }
        Ok(FsPath { names })
    }

    /// The components, outermost first; empty for the root.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The containing directory and the last name; `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(FsPath, &str)> {
        let (name, parent) = self.names.split_last()?;
        Some((FsPath { names: parent.to_vec() }, name))
    }

    /// The path of `name` within this directory.
    ///
    /// # Errors
    /// [`PathError`] if `name` is not a legal name.
    pub fn join(&self, name: &str) -> Result<FsPath, PathError> {
        check_name(name)?;
        let mut names = self.names.clone();
        names.push(name.to_owned());
        Ok(FsPath { names })
    }
}

/// Checks one path component.
///
/// # Errors
/// [`PathError`] names what to change.
pub fn check_name(name: &str) -> Result<(), PathError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(PathError::NameTooLong(name.chars().take(32).collect()));
    }
    if name.is_empty() || name == "." || name == ".." {
        return Err(PathError::Dots);
    }
    if name.chars().any(|c| c.is_control() || c == '/') {
        return Err(PathError::ControlCharacter(name.to_owned()));
    }
    Ok(())
}

impl fmt::Display for FsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            return f.write_str("/");
        }
        self.names.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_are_folded() {
        assert_eq!(FsPath::parse("//a///b/").unwrap().to_string(), "/a/b");
        assert_eq!(FsPath::parse("/").unwrap(), FsPath::root());
        assert_eq!(FsPath::root().split(), None);
    }

    #[test]
    fn names_that_look_alike_stay_apart() {
        let (composed, decomposed) = ("/\u{fc}", "/u\u{308}");
        assert_ne!(FsPath::parse(composed).unwrap(), FsPath::parse(decomposed).unwrap());
        assert_eq!(FsPath::parse(decomposed).unwrap().to_string(), decomposed);
    }

    #[test]
    fn tricks_are_refused() {
        for (text, error) in [
            ("a/b", PathError::NotAbsolute),
            ("", PathError::NotAbsolute),
            ("/a/../b", PathError::Dots),
            ("/.", PathError::Dots),
            ("/a\0b", PathError::ControlCharacter("a\0b".into())),
            ("/a\nb", PathError::ControlCharacter("a\nb".into())),
            ("/a\u{7f}b", PathError::ControlCharacter("a\u{7f}b".into())),
            ("/a\u{85}b", PathError::ControlCharacter("a\u{85}b".into())),
            ("/a//../b", PathError::Dots),
            ("//..", PathError::Dots),
        ] {
            assert_eq!(FsPath::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(FsPath::parse(&format!("/{}", "x".repeat(5000))), Err(PathError::TooLong));
        assert!(matches!(FsPath::parse(&format!("/{}", "x".repeat(256))), Err(PathError::NameTooLong(_))));
        assert_eq!(FsPath::parse(&"/x".repeat(257)), Err(PathError::TooDeep));
    }
}
