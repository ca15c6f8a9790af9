//! Spans of time as people write them in settings: `250ms`, `1s`, `5m`, `1h`, `1d`.

use core::str::FromStr;

use crate::time::Span;

/// A text that is not a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a span of time: write a whole number and one unit of ms, s, m, h, d, such as \"250ms\" or \"1h\""
)]
pub struct BadSpan;

impl FromStr for Span {
    type Err = BadSpan;

    fn from_str(text: &str) -> Result<Self, BadSpan> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit {
            "ms" => Self::millis(1),
            "s" => Self::secs(1),
            "m" => Self::secs(60),
            "h" => Self::secs(3_600),
            "d" => Self::secs(86_400),
            _ => return Err(BadSpan),
        };
        let number: u64 = number.parse().map_err(|_| BadSpan)?;
        number.checked_mul(unit.0).map(Self).ok_or(BadSpan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_and_one_unit() {
        for (text, span) in [
            ("250ms", Span::millis(250)),
            ("1s", Span::secs(1)),
            ("5m", Span::secs(300)),
            ("1h", Span::secs(3_600)),
            ("1d", Span::secs(86_400)),
            ("0s", Span::ZERO),
        ] {
            assert_eq!(text.parse(), Ok(span), "{text}");
        }
    }

    #[test]
    fn nothing_else() {
        let too_long = "9".repeat(15) + "d";
        for text in
            ["", "1", "s", "1 s", "-1s", "+1s", "1.5s", "1h30m", "1S", "1us", "٣s", &too_long]
        {
            assert_eq!(text.parse::<Span>(), Err(BadSpan), "{text}");
        }
    }
}
