//! The keys whose demand is watched: a bounded table of forecasts.
//!
//! A forecast costs several times what a count does, and is worth it only for a key of which more than a
//! request may be under way. Where there is no room for one, its limit is decided as a `plain` one.

use super::Forecast;
use crate::{
    ids::{Key, RegionNumber, StoreEpoch},
    index::Index,
    rights::{Books, Statement},
    slab::Slab,
    store::table::hash_of,
    time::{Label, Mono, Span, Window},
};

/// Places that a full table looks at for keys nobody asks for any more.
const ROOM_SWEEP_PLACES: u32 = 64;
/// The shortest time after which nobody asks for a key any more.
const IDLE_MIN: Span = Span::secs(10);

/// For whom a key is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// It is asked for here.
    Own,
    /// Only another node tells of it: such keys leave a quarter of the table for those that are asked for.
    Told,
}

#[derive(Debug)]
struct Watch {
    key: Key,
    forecast: Forecast,
    /// Of a limit that is spent by rights: what was heard of them.
    books: Books,
    /// When it was asked for or heard of last.
    touched: Mono,
    /// It is forgotten so long after that.
    idle_after: Span,
}

impl Watch {
    fn is_idle(&self, now: Mono) -> bool {
        now.since(self.touched) > self.idle_after
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Watched {
    slab: Slab<Watch>,
    index: Index,
    keys_max: usize,
    /// Where the next sweep begins.
    hand: u32,
    /// How often there was no room.
    refused: u64,
}

impl Watched {
    /// An empty table for `keys_max` keys.
    pub(crate) const fn new(keys_max: usize) -> Self {
        Self { slab: Slab::new(), index: Index::new(), keys_max, hand: 0, refused: 0 }
    }

    /// How often a key found no room.
    pub(crate) const fn refused(&self) -> u64 {
        self.refused
    }

    /// Bytes held.
    pub(crate) fn memory_bytes(&self) -> usize {
        let watches = (0..self.slab.places()).filter_map(|at| self.slab.get(at));
        let of_each = watches.map(|w| w.forecast.memory_bytes() + w.books.memory_bytes());
        self.slab.memory_bytes() + self.index.memory_bytes() + of_each.sum::<usize>()
    }

    fn find(&self, key: &Key) -> Option<u32> {
        self.index.find(hash_of(key), |at| self.slab.get(at).is_some_and(|watch| watch.key == *key))
    }

    /// The forecast of a key, if there is one.
    pub(crate) fn get(&self, key: &Key) -> Option<&Forecast> {
        Some(&self.slab.get(self.find(key)?)?.forecast)
    }

    /// The forecast of a key, if there is one, which is asked for or heard of now.
    pub(crate) fn touch(&mut self, key: &Key, now: Mono) -> Option<&mut Forecast> {
        let watch = self.slab.get_mut(self.find(key)?)?;
        watch.touched = watch.touched.max(now);
        Some(&mut watch.forecast)
    }

    /// Begins to watch a key, if there is room.
    pub(crate) fn watch(
        &mut self,
        key: &Key,
        window: Window,
        label: Label,
        now: Mono,
        whose: Whose,
    ) -> Option<&mut Forecast> {
        let most = match whose {
            Whose::Own => self.keys_max,
            Whose::Told => self.keys_max - self.keys_max / 4,
        };
        if self.slab.len() >= most {
            self.sweep(now, ROOM_SWEEP_PLACES);
        }
        if self.slab.len() >= most {
            self.refused += 1;
            return None;
        }
        let idle_after = window.usual_length().times(2).max(IDLE_MIN).min(Span::secs(3_600));
        let forecast = Forecast::new(window, label, now);
        let at = self.slab.insert(Watch {
            key: *key,
            forecast,
            books: Books::default(),
            touched: now,
            idle_after,
        });
        self.index.insert(hash_of(key), at);
        Some(&mut self.slab.get_mut(at)?.forecast)
    }

    /// What was heard of the rights to a key.
    pub(crate) fn books(&self, key: &Key) -> Option<&Books> {
        Some(&self.slab.get(self.find(key)?)?.books)
    }

    /// Takes what a region tells of its rights to a key that is watched. Returns whether that is news.
    pub(crate) fn merge(&mut self, key: &Key, label: Label, told: &Statement) -> bool {
        let watch = self.find(key).and_then(|at| self.slab.get_mut(at));
        watch.is_some_and(|watch| watch.books.merge(label, told))
    }

    /// Takes the question of a region whose store has forgotten a label of a key that is watched. Returns
    /// whether that is news.
    pub(crate) fn ask(
        &mut self,
        key: &Key,
        label: Label,
        region: RegionNumber,
        epoch: StoreEpoch,
    ) -> bool {
        let watch = self.find(key).and_then(|at| self.slab.get_mut(at));
        watch.is_some_and(|watch| watch.books.ask(label, region, epoch))
    }

    /// Places that watched keys have had: those to look at from 0 on.
    pub(crate) fn places(&self) -> u32 {
        self.slab.places()
    }

    /// The key that is watched at a place.
    pub(crate) fn at(&self, place: u32) -> Option<(&Key, &Forecast)> {
        self.slab.get(place).map(|watch| (&watch.key, &watch.forecast))
    }

    /// Forgets keys that nobody asks for any more, looking at `budget` places.
    pub(crate) fn sweep(&mut self, now: Mono, budget: u32) {
        let places = self.slab.places();
        for _ in 0..budget.min(places) {
            let at = self.hand % places;
            self.hand = (at + 1) % places;
            let idle = self.slab.get(at).filter(|watch| watch.is_idle(now)).map(|w| w.key);
            if let Some(key) = idle {
                self.slab.remove(at);
                self.index.remove(hash_of(&key), at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Caller, LimitId};

    fn key(n: u64) -> Key {
        Key { caller: Caller([n, 0]), limit: LimitId(1) }
    }

    #[test]
    fn what_others_tell_of_leaves_room_for_what_is_asked_for_here() {
        let window = Window::new(Span::secs(1)).expect("a second");
        let mut watched = Watched::new(8);
        let mut watch =
            |n, whose| watched.watch(&key(n), window, Label(1), Mono(0), whose).is_some();
        assert_eq!((0..20).filter(|n| watch(*n, Whose::Told)).count(), 6);
        assert_eq!((20..40).filter(|n| watch(*n, Whose::Own)).count(), 2);
    }

    #[test]
    fn it_is_bounded_and_forgets_who_is_idle_only() {
        let window = Window::new(Span::secs(1)).expect("a second");
        let mut watched = Watched::new(2);
        for n in 0..2 {
            assert!(watched.watch(&key(n), window, Label(1), Mono(0), Whose::Own).is_some());
        }
        assert!(watched.watch(&key(2), window, Label(1), Mono(1), Whose::Own).is_none());
        assert_eq!(watched.refused(), 1);
        let later = Mono(IDLE_MIN.0 + 2);
        assert!(watched.touch(&key(1), later).is_some());
        assert!(watched.watch(&key(2), window, Label(12), later, Whose::Own).is_some());
        assert!(watched.get(&key(0)).is_none(), "nobody asked for it");
        assert!(watched.get(&key(1)).is_some() && watched.get(&key(2)).is_some());
    }
}
