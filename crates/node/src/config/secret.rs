//! The secret that keys the fingerprints, from its file.

use std::{fmt::Write, fs::File, io::Read, path::Path};

use tidegate_core::ids::{CallerHasher, Secret};

/// The longest secret file, in bytes.
const BYTES_MAX: usize = 4_096;
/// The fewest bytes of a secret.
const BYTES_MIN: usize = 16;
/// The most hexadecimal digits of a secret.
const DIGITS_MAX: usize = 128;

/// The secret in a file, or what is wrong with it.
pub(super) fn read(file: &Path) -> Result<Secret, String> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    from_bytes(&bytes).map_err(|wrong| {
        let remedy = "write one with: openssl rand -hex 32";
        format!("{} {wrong}: {remedy}", file.display())
    })
}

/// The secret that the content of a file makes: 32 to 128 hexadecimal digits, or 16 bytes or more of
/// another kind. White space around it does not count.
fn from_bytes(bytes: &[u8]) -> Result<Secret, String> {
    let bytes = bytes.trim_ascii();
    let is_hex = bytes.iter().all(u8::is_ascii_hexdigit);
    match bytes.len() {
        0 => return Err("is empty".into()),
        length if length > BYTES_MAX => return Err(format!("has more than {BYTES_MAX} bytes")),
        length if is_hex && !(2 * BYTES_MIN..=DIGITS_MAX).contains(&length) => {
            return Err(format!("has {length} hexadecimal digits, not 32 to {DIGITS_MAX}"));
        }
        length if length < BYTES_MIN => {
            return Err(format!("has {length} bytes, at least {BYTES_MIN} are needed"));
        }
        _ => {}
    }
    let mut text = String::new();
    for byte in bytes {
        // Upper and lower case digits are the same number.
        let byte = if is_hex { byte.to_ascii_lowercase() } else { *byte };
        write!(text, "{byte:02x}").expect("a string takes all text");
    }
    let kind = if is_hex { "digits" } else { "bytes" };
    let hash = CallerHasher::new(&Secret([0; 16])).part("secret").part(kind).part(&text).finish();
    Ok(Secret(hash.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_enough() {
        for good in
            [&[b'a'; 32][..], &[b'0'; 128], b"sixteen bytes...", &[0xff; 16], &[b'z'; 4_096]]
        {
            assert!(from_bytes(good).is_ok(), "{good:?}");
        }
        for bad in [&b""[..], b" \n", b"short", &[b'a'; 31], &[b'a'; 129], &[b'z'; 4_097]] {
            assert!(from_bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_around_it_and_the_case_of_digits_do_not_count() {
        let secret = from_bytes(&[b'a'; 32]);
        assert_eq!(from_bytes(format!("{}\n", "A".repeat(32)).as_bytes()), secret);
        assert_ne!(from_bytes(&[b'b'; 32]), secret);
        assert_ne!(from_bytes(&[b'a'; 34]), secret);
    }
}
