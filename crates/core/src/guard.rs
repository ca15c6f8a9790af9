//! How an engine guards its parts: a mutex on a server, a plain cell in a simulator.
//!
//! The engine is the same type in both. Access goes through a closure, so that a guard can be held
//! neither across an await nor by mistake.

use core::cell::RefCell;

/// Exclusive access to one part of an engine.
pub trait Guard<T> {
    /// Guards `value`.
    fn new(value: T) -> Self;
    /// Runs `f` with exclusive access. Must not be entered again from within `f`.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

/// A family of guards: which kind an engine uses for all of its parts.
pub trait Guarding {
    /// The guard of a `T`.
    type Of<T: Send>: Guard<T>;
}

/// Guards for one thread: a [`RefCell`], which panics when it is entered twice.
#[derive(Debug, Clone, Copy)]
pub struct OneThread;

impl Guarding for OneThread {
    type Of<T: Send> = RefCell<T>;
}

impl<T> Guard<T> for RefCell<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.borrow_mut())
    }
}
