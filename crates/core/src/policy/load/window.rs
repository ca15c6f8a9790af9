//! The window of a limit: a length, or a unit of the calendar and a time zone.

use alloc::format;

use super::super::{
    fields::{Field, Fields},
    mistake::Shown,
    suggest::{any_of, nearest, similar},
};
use crate::time::{DATA_VERSION, Span, Unit, Window, Zone};

/// A length, or a unit of the calendar in a time zone: in UTC if it does not say.
pub(super) fn of(fields: &Fields<'_>) -> Option<Window> {
    let zone = fields.get("time_zone");
    let field = fields.require("window", "window = \"1h\"")?;
    let text = field.text()?;
    if let Some(unit) = Unit::of(text) {
        let zone = match &zone {
            Some(field) => time_zone(field),
            None => Zone::named("UTC"),
        };
        return Some(Window::calendar(unit, zone?));
    }
    if let Some(field) = &zone {
        field.refuse_key::<()>(
            "is for windows of the calendar, \"day\", \"week\" and \"month\": a window that is a length has it everywhere; leave it out",
        );
    }
    let length = text.parse::<Span>().map_or_else(
        |error| {
            let shown = Shown(text);
            let near = nearest(text, &Unit::ALL.map(Unit::as_str));
            let meant = near.map(|word| format!(", or did you mean \"{word}\"?"));
            field.refuse(format_args!("{shown} is {error}{}", meant.unwrap_or_default()))
        },
        Some,
    )?;
    Window::new(length).map_or_else(
        || field.refuse(format_args!("{} is not within \"1ms\" to \"400d\"", Shown(text))),
        Some,
    )
}

/// A zone of the database that is compiled in.
fn time_zone(field: &Field<'_>) -> Option<Zone> {
    let name = field.text()?;
    Zone::named(name).or_else(|| {
        let meant = match &*similar(name, Zone::names()) {
            [] => "names are such as \"Europe/Zurich\" or \"UTC\"".into(),
            similar => format!("did you mean {}?", any_of(similar)),
        };
        field.refuse(format_args!(
            "{} is no time zone of the IANA database, release {DATA_VERSION}: {meant}",
            Shown(name)
        ))
    })
}
