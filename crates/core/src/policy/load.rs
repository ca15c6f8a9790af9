//! Reads a policy file. (placeholder until merged)
use super::PolicySet;
use alloc::{string::String, vec::Vec};
/// One thing wrong in a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line in the file, from 1.
    pub line: usize,
    /// Where: `policy "public-api", limit "hourly", field "window"`.
    pub place: String,
    /// What is wrong, what was expected, what mends it.
    pub message: String,
}
impl PolicySet {
    /// Reads a policy file as a whole, or says everything that is wrong in it.
    pub fn parse(_text: &str) -> Result<Self, Vec<Mistake>> {
        Ok(Self::default())
    }
}
