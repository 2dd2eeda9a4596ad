//! What is wrong with the settings, and where: file, line, key, and what was expected.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

/// Why settings are refused. Displayed as `FILE:LINE: KEY: PROBLEM`, without the parts that do not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file; `None` when a flag is at fault.
    pub path: Option<PathBuf>,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// The key with its sections, such as `rule.idle.rollback`, or the flag.
    pub key: Option<String>,
    /// What was found and what was expected.
    pub problem: String,
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self {
            path: Some(path.to_owned()),
            line: None,
            key: None,
            problem: format!("cannot be read: {error}"),
        }
    }

    pub(super) fn in_flag(flag: &str, problem: String) -> Self {
        Self {
            path: None,
            line: None,
            key: Some(flag.to_owned()),
            problem,
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}:", path.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.problem)
    }
}

/// Something wrong in a file's text, before it is known which file that is.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) span: Range<usize>,
    pub(super) key: Option<String>,
    pub(super) problem: String,
}

impl Fault {
    pub(super) fn in_file(self, path: &Path, text: &str) -> ConfigError {
        ConfigError {
            path: Some(path.to_owned()),
            line: Some(line_at(text, self.span.start)),
            key: self.key,
            problem: self.problem,
        }
    }
}

/// The line in which a byte of a text stands, counted from 1.
pub(super) fn line_at(text: &str, byte: usize) -> usize {
    1 + text.bytes().take(byte).filter(|&b| b == b'\n').count()
}
