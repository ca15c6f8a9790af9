//! Tidegate's core.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod check;
pub mod guard;
pub mod ids;
pub mod policy;
pub mod store;
pub mod time;
