//! What is wrong in a configuration, told with file, line and field.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

/// One thing wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1, where there is one to point at.
    pub line: Option<usize>,
    /// The field, such as `cluster.gossip`; empty for the file as a whole.
    pub field: String,
    /// What is wrong, what was expected, what mends it.
    pub message: String,
}

impl Problem {
    /// A problem at a place of `text`.
    pub(super) fn at(
        text: &str,
        span: Option<Range<usize>>,
        field: &str,
        message: impl fmt::Display,
    ) -> Self {
        let lines =
            |span: Range<usize>| text.as_bytes()[..span.start].iter().filter(|b| **b == b'\n');
        Self {
            line: span.map(|span| lines(span).count() + 1),
            field: field.into(),
            message: message.to_string(),
        }
    }
}

/// `12: field "cluster.gossip": …`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{line}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "field \"{}\": ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong in a configuration; shown as one line for each problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// A problem with the file as a whole.
    pub(super) fn whole(message: String) -> Self {
        Self::from(Problem { line: None, field: String::new(), message })
    }

    /// The same problems, with the file to which they belong.
    pub(super) fn in_file(self, file: &Path) -> Self {
        Self { file: Some(file.into()), ..self }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { file: None, problems: vec![problem] }
    }
}

/// `node.toml:12: field "cluster.gossip": …`
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match (&self.file, problem.line) {
                (Some(file), Some(_)) => write!(f, "{}:{problem}", file.display())?,
                (Some(file), None) => write!(f, "{}: {problem}", file.display())?,
                (None, _) => write!(f, "{problem}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
