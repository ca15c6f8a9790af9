//! Globs over attribute values. (placeholder until merged)
use alloc::boxed::Box;
/// A pattern for a whole attribute value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(pub(crate) Box<str>);
impl Glob {
    /// Whether the whole of `value` fits.
    pub fn matches(&self, value: &str) -> bool {
        &*self.0 == value || &*self.0 == "**"
    }
}
