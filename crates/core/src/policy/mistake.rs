//! What is wrong in a policy file, told with line and place.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{
    cell::{Cell, RefCell},
    fmt,
};

use toml::de::Error as SyntaxError;

/// As many mistakes are told; more are only counted.
const MISTAKES_MAX: usize = 200;

/// One thing wrong in a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line in the file, from 1.
    pub line: usize,
    /// Where: `policy "public-api", limit "hourly", field "window"`; empty for the file as a whole.
    pub place: String,
    /// What is wrong, what was expected, what mends it.
    pub message: String,
}

/// `12: policy "public-api", limit "hourly", field "window": …`, on one line.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, place, message } = self;
        if place.is_empty() {
            write!(f, "{line}: {message}")
        } else {
            write!(f, "{line}: {place}: {message}")
        }
    }
}

/// The mistakes found so far in one text.
pub(super) struct Notes {
    /// Offsets at which lines begin, but for the first line.
    lines: Vec<usize>,
    found: RefCell<Vec<(usize, Mistake)>>,
    untold: Cell<usize>,
}

impl Notes {
    pub(super) fn new(text: &str) -> Self {
        let lines = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        Self { lines, found: RefCell::default(), untold: Cell::default() }
    }

    /// The line of an offset, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|begin| *begin <= at) + 1
    }

    /// Notes a mistake at an offset of the text.
    pub(super) fn add(&self, at: usize, place: &str, message: impl fmt::Display) {
        let mut found = self.found.borrow_mut();
        if found.len() == MISTAKES_MAX {
            self.untold.set(self.untold.get() + 1);
            return;
        }
        let mistake =
            Mistake { line: self.line(at), place: place.into(), message: message.to_string() };
        found.push((at, mistake));
    }

    /// Notes why the text is not TOML.
    pub(super) fn add_syntax(&self, error: &SyntaxError) {
        let at = error.span().map_or(0, |span| span.start);
        self.add(at, "", format_args!("not TOML: {}", error.message().replace('\n', " ")));
    }

    /// All that was noted, in the order of the text.
    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(at, _)| *at);
        let mut mistakes: Vec<_> = found.into_iter().map(|(_, mistake)| mistake).collect();
        let untold = self.untold.into_inner();
        if let (Some(last), 1..) = (mistakes.last(), untold) {
            let message = format!("and {untold} more mistakes");
            mistakes.push(Mistake { line: last.line, place: String::new(), message });
        }
        mistakes
    }
}

/// Text from the file, quoted, on one line, and not longer than a line should be.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_MAX: usize = 80;
        match self.0.char_indices().nth(CHARS_MAX) {
            Some((cut, _)) => write!(f, "\"{}…\"", self.0[..cut].escape_debug()),
            None => write!(f, "\"{}\"", self.0.escape_debug()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_the_file_stays_on_one_short_line() {
        assert_eq!(Shown("a\n\"b\"").to_string(), r#""a\n\"b\"""#);
        assert_eq!(Shown(&"x".repeat(1_000)).to_string().chars().count(), 83);
    }

    #[test]
    fn lines_count_from_one() {
        let notes = Notes::new("a\n\nb");
        assert_eq!([0, 1, 2, 3].map(|at| notes.line(at)), [1, 1, 2, 3]);
    }

    #[test]
    fn a_flood_of_mistakes_is_counted_only() {
        let notes = Notes::new("");
        for _ in 0..MISTAKES_MAX + 7 {
            notes.add(0, "", "wrong");
        }
        let mistakes = notes.into_mistakes();
        assert_eq!(mistakes.len(), MISTAKES_MAX + 1);
        assert_eq!(mistakes[MISTAKES_MAX].to_string(), "1: and 7 more mistakes");
    }
}
