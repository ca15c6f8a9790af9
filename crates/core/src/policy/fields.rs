//! Reads the fields of a TOML table by hand and notes everything that is wrong with them.
//!
//! A derived deserializer stops at the first mistake; a person who writes policies wants them all.
//! So a reader that finds a mistake notes it, answers `None`, and the walk goes on.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    mistake::{Notes, Shown},
    suggest::{choices, quoted},
};

/// One table of the file.
pub(super) struct Fields<'a> {
    pub(super) notes: &'a Notes,
    pub(super) table: &'a DeTable<'a>,
    /// Offset of the table, for what is missing in it.
    pub(super) at: usize,
    /// How people find it: `policy "public-api", limit "hourly"`; empty for the file.
    pub(super) place: String,
}

impl<'a> Fields<'a> {
    /// The field of this name, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        let (key, value) = self.table.get_key_value(name)?;
        Some(Field {
            notes: self.notes,
            place: self.field_place(name),
            key_at: key.span().start,
            at: value.span().start,
            value: value.get_ref(),
        })
    }

    /// The field of this name; noted if it is missing. `example` shows how to write it.
    pub(super) fn require(&self, name: &str, example: &str) -> Option<Field<'a>> {
        self.get(name).or_else(|| self.missing(name, format_args!("is missing: write {example}")))
    }

    /// Notes that a field is not there.
    pub(super) fn missing<T>(&self, name: &str, message: impl fmt::Display) -> Option<T> {
        self.notes.add(self.at, &self.field_place(name), message);
        None
    }

    /// Notes every field that is neither known nor `later`, and says which are known. `later` are
    /// fields that this version does not have yet, with what they bring.
    pub(super) fn allow(&self, known: &[&str], later: &[(&str, &str)]) {
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            let note = |message: fmt::Arguments<'_>| {
                self.notes.add(key.span().start, &self.field_place(name), message);
            };
            if let Some((_, what)) = later.iter().find(|(later, _)| *later == name) {
                note(format_args!("{what} are not built yet: leave it out"));
            } else if !known.contains(&name) {
                note(format_args!("unknown; {}", choices(name, known)));
            }
        }
    }

    fn field_place(&self, name: &str) -> String {
        let comma = if self.place.is_empty() { "" } else { ", " };
        format!("{}{comma}field {}", self.place, Shown(name))
    }
}

/// One value of the file.
#[derive(Clone)]
pub(super) struct Field<'a> {
    notes: &'a Notes,
    place: String,
    /// Offset of the key, or of the value where it has none.
    key_at: usize,
    /// Offset of the value.
    at: usize,
    value: &'a DeValue<'a>,
}

impl<'a> Field<'a> {
    /// Notes what is wrong with the value.
    pub(super) fn refuse<T>(&self, message: impl fmt::Display) -> Option<T> {
        self.notes.add(self.at, &self.place, message);
        None
    }

    /// Notes what is wrong with the field standing here at all.
    pub(super) fn refuse_key<T>(&self, message: impl fmt::Display) -> Option<T> {
        self.notes.add(self.key_at, &self.place, message);
        None
    }

    fn wrong_type<T>(&self, wanted: &str) -> Option<T> {
        let is = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.refuse(format_args!("is {is}, must be {wanted}"))
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        self.value.as_str().or_else(|| self.wrong_type("a string"))
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.wrong_type("true or false"))
    }

    /// A whole number within a range.
    pub(super) fn whole(&self, min: u64, max: u64) -> Option<u64> {
        let wanted = format!("a whole number from {min} to {max}");
        let Some(number) = self.value.as_integer() else { return self.wrong_type(&wanted) };
        let value = u64::from_str_radix(number.as_str(), number.radix()).ok();
        value
            .filter(|value| (min..=max).contains(value))
            .or_else(|| self.refuse(format_args!("must be {wanted}")))
    }

    /// A string that stands for one of a few values. `later` are values that this version does not
    /// have yet.
    pub(super) fn choice<T: Copy>(&self, known: &[(&str, T)], later: &[&str]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = known.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        if later.contains(&text) {
            let now = quoted(&names);
            return self.refuse(format_args!("{} is not built yet: write {now}", Shown(text)));
        }
        self.refuse(format_args!("unknown value {}; {}", Shown(text), choices(text, &names)))
    }

    /// The elements of a list, the first `max` of them; more are noted. `wanted` says of what.
    pub(super) fn list(&self, wanted: &str, max: usize) -> Option<Vec<Field<'a>>> {
        let Some(elements) = self.value.as_array() else { return self.wrong_type(wanted) };
        let element = |element: &'a Spanned<DeValue<'a>>| Field {
            notes: self.notes,
            place: self.place.clone(),
            key_at: element.span().start,
            at: element.span().start,
            value: element.get_ref(),
        };
        if let Some(excess) = elements.get(max) {
            element(excess).refuse::<()>(format_args!("has more than {max} elements"));
        }
        Some(elements.iter().take(max).map(element).collect())
    }

    /// Whether the value is a list.
    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// The table that the value is, with its own place.
    pub(super) fn table(&self, place: String, wanted: &str) -> Option<Fields<'a>> {
        let Some(table) = self.value.as_table() else { return self.wrong_type(wanted) };
        Some(Fields { notes: self.notes, table, at: self.at, place })
    }

    /// The place of a table that may have a name: `policy "public-api"`, or else `policy 3`.
    pub(super) fn named_place(&self, parent: &str, kind: &str, index: usize) -> String {
        let comma = if parent.is_empty() { "" } else { ", " };
        match self.value.get("name").and_then(|name| name.get_ref().as_str()) {
            Some(name) => format!("{parent}{comma}{kind} {}", Shown(name)),
            None => format!("{parent}{comma}{kind} {}", index + 1),
        }
    }

    /// Where the value begins.
    pub(super) fn offset(&self) -> usize {
        self.at
    }
}
