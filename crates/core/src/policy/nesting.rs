//! Finds TOML that nests too deeply, before it is parsed.
//!
//! The parser bounds brackets, and the parts of one key, but not both together: some kilobytes of
//! text make a tree so deep that dropping it overflows a thread's stack.

use alloc::vec::Vec;

/// The deepest that one statement may nest, counted in brackets and dots.
pub const DEPTH_MAX: usize = 64;

/// Where `text` nests deeper than [`DEPTH_MAX`], if it does. Of text that is not TOML it may say
/// either.
pub fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    // Open brackets, and the dots since each began or had its last comma.
    let mut open: Vec<(u8, usize)> = Vec::new();
    let mut dots = 0;
    let mut depth = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'#' => at = line_end(bytes, at),
            b'"' | b'\'' => {
                at = string_end(bytes, at);
                continue;
            }
            b'[' | b'{' => {
                open.push((*byte, dots));
                dots = 0;
                depth += 1;
            }
            b']' | b'}' => {
                let opening = byte - 2;
                if let Some((_, before)) = open.pop_if(|(bracket, _)| *bracket == opening) {
                    depth -= 1 + dots;
                    dots = before;
                }
            }
            b'.' => {
                dots += 1;
                depth += 1;
            }
            b',' => {
                depth -= dots;
                dots = 0;
            }
            b'\n' if open.is_empty() => {
                depth = 0;
                dots = 0;
            }
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// The last offset before the end of the line.
fn line_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    at + rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end - 1)
}

/// The first offset behind the string that begins at `at`. A string of one line ends with the line
/// at the latest.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let quote = bytes[at];
    let escapes = quote == b'"';
    let is_long = bytes[at..].starts_with(&[quote; 3]);
    let mut at = at + if is_long { 3 } else { 1 };
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if escapes => at += 1,
            b'\n' if !is_long => return at,
            byte if *byte == quote && !is_long => return at + 1,
            byte if *byte == quote && bytes[at..].starts_with(&[quote; 3]) => {
                // Up to two more quotes belong to the text.
                let quotes = bytes[at..].iter().take(5).take_while(|byte| **byte == quote).count();
                return at + quotes;
            }
            _ => {}
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::ToString};

    use super::*;

    #[test]
    fn depth_is_brackets_and_dots_of_one_statement() {
        let dots = |n| "a.".repeat(n) + "a = 1\n";
        assert_eq!(too_deep(&dots(DEPTH_MAX)), None);
        assert_eq!(too_deep(&dots(DEPTH_MAX + 1)), Some(129));
        assert_eq!(too_deep(&dots(DEPTH_MAX).repeat(9)), None);
        assert_eq!(too_deep(&("x = ".to_string() + &"[".repeat(64) + &"]".repeat(64))), None);
        assert!(too_deep(&"[\n".repeat(65)).is_some());
        assert!(too_deep(&"{a.b = ".repeat(33)).is_some());
        assert!(too_deep(&"{a.b]".repeat(33)).is_some());
        assert_eq!(too_deep(&format!("x = [{}]", "{a.b = [1.5, 2.5]}, ".repeat(1_000))), None);
        assert_eq!(too_deep(&"[[policy]]\nmatch.route = 1\n".repeat(1_000)), None);
    }

    #[test]
    fn strings_and_comments_do_not_nest() {
        let deep = "[.{".repeat(100);
        for text in [
            format!("# {deep}\n# '\n"),
            format!("x = 1 # \"{deep}"),
            format!("x = \"{deep}\"\n"),
            format!("x = \"\\\"{deep}\"\n"),
            format!("x = '\\' # {deep}\n"),
            format!("x = \"\"\"\n\" {deep} \\\"\"\" \n\"\"\"\"\" # {deep}"),
            format!("x = '''\n'' {deep}\n''''\n"),
            format!("x = \"\" # {deep}"),
            format!("\"{deep}\".x = 1"),
        ] {
            assert_eq!(too_deep(&text), None, "{text}");
            assert!(too_deep(&format!("{text}\n{deep}")).is_some(), "{text}");
        }
    }
}
