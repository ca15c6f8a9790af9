//! Globs over attribute values: `*` any run without `/`, `**` any run, `?` one character, `\`
//! takes the next character as it is. The whole value must fit, and case counts.
//!
//! A value is matched in one pass over its characters, with the set of all places in the pattern
//! that the characters so far can lead to. So a match takes at most (length of the value) times
//! (length of the pattern) steps, whatever a hostile value looks like, and allocates nothing.

use alloc::{boxed::Box, string::String, vec::Vec};
use core::fmt;

/// The longest pattern, in bytes: as long as the longest attribute value.
pub const GLOB_BYTES_MAX: usize = 512;

/// A pattern that is not a glob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Longer than [`GLOB_BYTES_MAX`].
    #[error("the pattern has {0} bytes, at most {GLOB_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// A `\` with nothing after it.
    #[error("the pattern ends in `\\`, which takes the next character as it is: write `\\\\`")]
    OpenEscape,
}

/// A pattern for a whole attribute value.
///
/// A `/**` at the end fits nothing as well: `/api/**` matches `/api`, `/api/` and `/api/x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// As it was written.
    source: Box<str>,
    /// What every match begins with, character by character.
    prefix: Box<str>,
    /// What comes after the prefix. No two neighbours are both runs.
    rest: Box<[Token]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// This character.
    Char(char),
    /// `?`: any one character.
    One,
    /// `*`: any run without `/`.
    Run,
    /// `**`: any run.
    Any,
    /// `/**` at the end: nothing, or `/` and any run.
    Below,
}

impl Glob {
    /// Compiles a pattern.
    pub fn parse(source: &str) -> Result<Self, GlobError> {
        if source.len() > GLOB_BYTES_MAX {
            return Err(GlobError::TooLong(source.len()));
        }
        let tokens = tokens(source)?;
        let plain = tokens.iter().map_while(|token| match token {
            Token::Char(c) => Some(*c),
            _ => None,
        });
        let prefix: String = plain.collect();
        let rest = tokens[prefix.chars().count()..].into();
        Ok(Self { source: source.into(), prefix: prefix.into(), rest })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `value` fits.
    pub fn matches(&self, value: &str) -> bool {
        let Some(value) = value.strip_prefix(&*self.prefix) else { return false };
        let mut places = Places::default();
        self.enter(&mut places, 0);
        for c in value.chars() {
            let mut next = Places::default();
            for place in places.iter() {
                match self.rest.get(place) {
                    Some(Token::Char(wanted)) if *wanted == c => self.enter(&mut next, place + 1),
                    Some(Token::One) => self.enter(&mut next, place + 1),
                    Some(Token::Run) if c != '/' => self.enter(&mut next, place),
                    Some(Token::Any) if place + 1 == self.rest.len() => return true,
                    Some(Token::Any) => self.enter(&mut next, place),
                    Some(Token::Below) if c == '/' => return true,
                    _ => {}
                }
            }
            if next.is_empty() {
                return false;
            }
            places = next;
        }
        places.iter().any(|place| matches!(self.rest.get(place), None | Some(Token::Below)))
    }

    /// Adds a place, and the one behind it if a run there may be empty.
    fn enter(&self, places: &mut Places, place: usize) {
        places.add(place);
        if let Some(Token::Run | Token::Any) = self.rest.get(place) {
            places.add(place + 1);
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Takes a pattern apart; runs of runs become one.
fn tokens(source: &str) -> Result<Vec<Token>, GlobError> {
    let mut tokens = Vec::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            '\\' => Token::Char(chars.next().ok_or(GlobError::OpenEscape)?),
            '?' => Token::One,
            '*' => {
                let mut stars = 1;
                while chars.next_if_eq(&'*').is_some() {
                    stars += 1;
                }
                if stars == 1 { Token::Run } else { Token::Any }
            }
            plain => Token::Char(plain),
        };
        tokens.push(token);
    }
    if tokens.ends_with(&[Token::Char('/'), Token::Any]) {
        tokens.truncate(tokens.len() - 2);
        tokens.push(Token::Below);
    }
    Ok(tokens)
}

/// A pattern of the longest kind has one place before each of its tokens, and one at its end.
const WORDS: usize = GLOB_BYTES_MAX / 64 + 1;

/// A set of places in a pattern.
#[derive(Default)]
struct Places([u64; WORDS]);

impl Places {
    fn add(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            let mut left = *bits;
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.checked_sub(1)?;
                Some(word * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, value: &str) -> bool {
        Glob::parse(pattern).expect(pattern).matches(value)
    }

    #[test]
    fn what_the_contract_says() {
        for (pattern, fits, fails) in [
            (
                "/api/**",
                &["/api", "/api/", "/api/x", "/api/x/y"][..],
                &["/apix", "/ap", "", "x/api"][..],
            ),
            ("/**", &["", "/", "/x/y"], &["x"]),
            ("**", &["", "/", "a/b"], &[]),
            ("*", &["", "abc"], &["/", "a/b"]),
            ("/*/x", &["/a/x", "//x"], &["/x", "/a/b/x"]),
            ("a/**/z", &["a//z", "a/b/z", "a/b/c/z"], &["a/z", "a/b/zz"]),
            ("**.png", &[".png", "a/b.png", "a.png.png"], &["a.pngx"]),
            ("?", &["x", "é", "/", "\u{1F30A}"], &["", "xy"]),
            ("a\\*b\\?\\\\", &["a*b?\\"], &["axb?\\", "a*bx\\"]),
            ("\\a", &["a"], &["\\a"]),
            ("GET", &["GET"], &["get", "GETS", ""]),
            ("", &[""], &["x"]),
            ("/api\\/**", &["/api", "/api/x"], &["/apix"]),
            ("*a*b*", &["ab", "xaxbx", "aab"], &["ba", "a/b"]),
            ("**a*b/c**", &["x/a/ab/c", "ab/c/d"], &["a/b/c"]),
        ] {
            for value in fits {
                assert!(matches(pattern, value), "{pattern} fits {value}");
            }
            for value in fails {
                assert!(!matches(pattern, value), "{pattern} does not fit {value}");
            }
        }
    }

    #[test]
    fn patterns_are_bounded_and_complete() {
        assert!(Glob::parse(&"x".repeat(GLOB_BYTES_MAX)).is_ok());
        assert_eq!(Glob::parse(&"x".repeat(513)), Err(GlobError::TooLong(513)));
        assert_eq!(Glob::parse("a\\"), Err(GlobError::OpenEscape));
    }

    #[test]
    fn shows_its_source() {
        assert_eq!(Glob::parse("/a\\*/**").expect("a glob").to_string(), "/a\\*/**");
    }

    /// Patterns that make a matcher which tries one way after the other run for years.
    #[test]
    fn hostile_pairs_take_no_time() {
        for unit in ["*a", "**a", "?**", "**a*a", "*a*?"] {
            let pattern = unit.repeat(GLOB_BYTES_MAX / unit.len() - 1) + "b";
            assert!(!matches(&pattern, &"a".repeat(512)), "{unit}");
            assert!(!matches(&pattern, &"a/".repeat(256)), "{unit}");
        }
    }

    /// Tries every way, as the contract reads.
    fn reference(pattern: &[char], value: &[char]) -> bool {
        let below = |stars: &[char]| stars.len() > 1 && stars.iter().all(|c| *c == '*');
        match pattern {
            [] => value.is_empty(),
            ['/', stars @ ..] | ['\\', '/', stars @ ..] if below(stars) => {
                value.first().is_none_or(|c| *c == '/')
            }
            ['*', '*', rest @ ..] => (0..=value.len()).any(|n| reference(rest, &value[n..])),
            ['*', rest @ ..] => (0..=value.len())
                .take_while(|n| !value[..*n].contains(&'/'))
                .any(|n| reference(rest, &value[n..])),
            ['?', rest @ ..] => !value.is_empty() && reference(rest, &value[1..]),
            ['\\', c, rest @ ..] | [c, rest @ ..] => {
                value.first() == Some(c) && reference(rest, &value[1..])
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_the_reference(pattern in r"([ab/é?]|\*|\*\*|/\*\*|\\[ab/*?\\]){0,8}", value in "[ab/é*?]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &value), reference(&chars(&pattern), &chars(&value)));
        }

        #[test]
        fn a_value_with_escapes_fits_itself(value in ".{0,60}") {
            let escaped: String = value.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(matches(&escaped, &value));
            prop_assert!(matches("**", &value));
        }

        #[test]
        fn anything_may_be_asked(pattern in any::<String>(), value in any::<String>()) {
            if let Ok(glob) = Glob::parse(&pattern) {
                glob.matches(&value);
            }
        }
    }
}
