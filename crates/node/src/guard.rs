//! The engine's guards on a server: mutexes.

use parking_lot::Mutex;
use tidegate_core::guard::{Guard, Guarding};

/// Guards for many threads.
#[derive(Debug, Clone, Copy)]
pub struct Mutexes;

/// A mutex that is held for one closure, which cannot await.
#[derive(Debug)]
pub struct Locked<T>(Mutex<T>);

impl Guarding for Mutexes {
    type Of<T: Send> = Locked<T>;
}

impl<T> Guard<T> for Locked<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock())
    }
}
