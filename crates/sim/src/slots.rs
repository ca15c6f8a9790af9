//! Places for things under way, named by small numbers and used again.

/// A list with reusable places.
#[derive(Debug)]
pub struct Slots<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Puts `value` in a place and says which.
    pub fn insert(&mut self, value: T) -> usize {
        if let Some(at) = self.free.pop() {
            self.places[at] = Some(value);
            return at;
        }
        self.places.push(Some(value));
        self.places.len() - 1
    }

    /// The value at a place.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.places.get_mut(at)?.as_mut()
    }

    /// Takes a value out; its place is free.
    pub fn remove(&mut self, at: usize) -> Option<T> {
        let value = self.places.get_mut(at)?.take()?;
        self.free.push(at);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut slots = Slots::default();
        let (a, b) = (slots.insert('a'), slots.insert('b'));
        assert_eq!(slots.remove(a), Some('a'));
        assert_eq!(slots.remove(a), None);
        assert_eq!(slots.insert('c'), a);
        assert_eq!(slots.get_mut(a), Some(&mut 'c'));
        assert_eq!(slots.get_mut(b), Some(&mut 'b'));
    }
}
