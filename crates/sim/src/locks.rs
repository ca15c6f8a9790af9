//! Guards for one thread that see in which order they are entered.
//!
//! On a server the parts of an engine are behind mutexes. If one thread holds part A while it enters part B,
//! and another the other way round, they may wait for each other for ever. That is a matter of chance there;
//! here, with debug assertions, both orders in one process are a panic.

use tidegate_core::guard::{Guard, Guarding};

/// Guards that are entered in one order only.
#[derive(Debug, Clone, Copy)]
pub struct Ordered;

/// A part, and what watches over its order.
#[derive(Debug)]
pub struct Part<T>(std::cell::RefCell<T>);

impl Guarding for Ordered {
    type Of<T: Send> = Part<T>;
}

impl<T> Guard<T> for Part<T> {
    fn new(value: T) -> Self {
        Self(std::cell::RefCell::new(value))
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(debug_assertions)]
        let _held = order::Held::enter(std::any::type_name::<T>());
        f(&mut self.0.borrow_mut())
    }
}

#[cfg(debug_assertions)]
mod order {
    use std::{cell::RefCell, collections::HashSet};

    /// A part, by the name of its type: all parts of one type are one, since nothing orders them.
    type Name = &'static str;

    #[derive(Default)]
    struct Seen {
        /// What is entered now, outermost first.
        held: Vec<Name>,
        /// What was ever entered while something else was held.
        orders: HashSet<(Name, Name)>,
    }

    thread_local!(static SEEN: RefCell<Seen> = RefCell::default());

    /// A part is entered as long as this lives.
    pub(super) struct Held;

    impl Held {
        pub(super) fn enter(part: Name) -> Self {
            SEEN.with_borrow_mut(|Seen { held, orders }| {
                for outer in held.iter() {
                    let fine = *outer != part && !orders.contains(&(part, *outer));
                    assert!(fine, "{part} is entered within {outer}, and the other way round");
                    orders.insert((*outer, part));
                }
                held.push(part);
            });
            Self
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            SEEN.with_borrow_mut(|seen| seen.held.pop());
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn one_order_is_fine_however_often() {
        let (a, b) = (Part::new(1_u8), Part::new(2_u16));
        for _ in 0..2 {
            assert_eq!(a.with(|a| b.with(|b| u16::from(*a) + *b)), 3);
        }
        assert_eq!(b.with(|b| *b), 2);
    }

    #[test]
    #[should_panic(expected = "the other way round")]
    fn the_other_order_is_a_panic_although_nobody_waits() {
        let (a, b) = (Part::new(1_u8), Part::new(2_u16));
        a.with(|_| b.with(|_| ()));
        b.with(|_| a.with(|_| ()));
    }

    #[test]
    #[should_panic(expected = "the other way round")]
    fn of_several_parts_of_a_type_one_is_entered_at_a_time() {
        let (a, b) = (Part::new(1_u8), Part::new(2_u8));
        a.with(|_| b.with(|_| ()));
    }
}
