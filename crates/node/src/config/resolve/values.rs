//! Single values: addresses, spans of time, paths.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use tidegate_core::time::Span;
use toml::Spanned;

use super::Resolver;
use crate::config::raw::Text;

impl Resolver<'_> {
    /// What reading a text gave, or a note of what is wrong with it.
    pub(super) fn taken<T, E: fmt::Display>(
        &mut self,
        field: &str,
        text: &Text,
        read: Result<T, E>,
    ) -> Option<T> {
        read.map_or_else(|error| self.refuse(field, text, error), Some)
    }

    /// An address to listen on.
    pub(super) fn address(&mut self, field: &str, text: &Text) -> Option<SocketAddr> {
        const WANTED: &str =
            "must be an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"";
        self.taken(field, text, text.get_ref().parse().map_err(|_| WANTED))
    }

    /// An address that a peer can dial.
    pub(super) fn dialled(&mut self, field: &str, text: &Text) -> Option<SocketAddr> {
        let address = self.address(field, text)?;
        if address.ip().is_unspecified() || address.port() == 0 {
            let message = format_args!("{address} cannot be dialled: write one address and a port");
            return self.refuse(field, text, message);
        }
        Some(address)
    }

    /// A span of time within a range.
    pub(super) fn span(
        &mut self,
        field: &str,
        text: Option<&Text>,
        default: Span,
        range: RangeInclusive<Span>,
    ) -> Option<Duration> {
        let duration = |span: Span| Duration::from_micros(span.0);
        let Some(text) = text else { return Some(duration(default)) };
        let span = self.taken(field, text, text.get_ref().parse())?;
        if !range.contains(&span) {
            let [min, max] = [*range.start(), *range.end()].map(duration);
            let message = format_args!("{:?} is not within {min:?} to {max:?}", text.get_ref());
            return self.refuse(field, text, message);
        }
        Some(duration(span))
    }

    /// A whole number within a range.
    pub(super) fn number<T: TryFrom<u64> + fmt::Display + PartialOrd + Copy>(
        &mut self,
        field: &str,
        written: Option<&Spanned<u64>>,
        default: T,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let Some(written) = written else { return Some(default) };
        let number = *written.get_ref();
        let taken = T::try_from(number).ok().filter(|number| range.contains(number));
        taken.or_else(|| {
            let (min, max) = (range.start(), range.end());
            let message = format_args!("{number} is not within {min} to {max}");
            self.refuse(field, written, message)
        })
    }

    /// The path of a file.
    pub(super) fn path(&mut self, field: &str, text: &Text) -> Option<PathBuf> {
        if text.get_ref().is_empty() {
            return self.refuse(field, text, "is empty: write the path of a file");
        }
        Some(self.directory.join(text.get_ref()))
    }
}
