//! How loads are spread over regions and time, checked.

use std::collections::BTreeMap;

use tidegate_core::time::Span;

use super::{Notes, file};
use crate::{
    topology::Topology,
    workload::{Bursts, Shape},
};

/// The shapes that have names.
const SHAPES: [&str; 6] = ["uniform", "80/20", "one", "moving", "sine", "flash"];
/// What can be set of each.
const SETTINGS: [(&str, &[&str]); 4] = [
    ("one", &["region"]),
    ("moving", &["period", "share"]),
    ("sine", &["period", "swing"]),
    ("flash", &["region", "base", "add", "every", "lasts"]),
];
/// How long one region has most of a moving load, and how much that is.
const HOP: Span = Span::secs(5);
const HOP_SHARE: f64 = 0.9;
/// A day of a load that follows the sun.
const DAY: Span = Span::secs(20);
const SWING: f64 = 0.9;
/// What a flash stands out from, of the limit; and when it comes, in windows.
const BASE: f64 = 0.5;
const FLASH_EVERY: u64 = 7;
const FLASH_LASTS: u64 = 2;
/// The longest times: a year and a bit, so that no sum of them overflows. The shortest: a millisecond.
const SPAN_MAX: Span = Span::secs(400 * 86_400);
const SPAN_MIN: Span = Span::millis(1);

/// The shape of a load whose mean is `multiple` of its limit, which has windows of this length.
pub(super) fn build(
    notes: &mut Notes,
    place: &str,
    load: &file::Load,
    topology: &Topology,
    window: Span,
    multiple: f64,
) -> Shape {
    let regions = topology.regions.len();
    let split = match (&load.split, &load.weights) {
        (split, None) => split.as_ref(),
        (None, Some(table)) => return weights(notes, place, table, topology),
        (Some(_), Some(_)) => {
            notes.add(place, "`split` and `weights` contradict each other; give one");
            None
        }
    };
    let even = || Shape::Still(vec![1.0 / regions as f64; regions]);
    let Some(split) = split else { return even() };
    unfit_settings(notes, place, split);
    let region = split.region.as_ref().map_or(Some(0), |name| notes.region(place, topology, name));
    let region = region.unwrap_or(0);
    match split.shape.as_str() {
        "uniform" => even(),
        // Most of it in the first region, the rest evenly in the others.
        "80/20" if regions > 1 => {
            let rest = 0.2 / (regions - 1) as f64;
            Shape::Still((0..regions).map(|at| if at == 0 { 0.8 } else { rest }).collect())
        }
        "80/20" => even(),
        "one" => Shape::Still((0..regions).map(|at| f64::from(u8::from(at == region))).collect()),
        "moving" => {
            let share = split.share.unwrap_or(HOP_SHARE);
            notes.share(&format!("{place}: split.share"), share);
            let share = if regions > 1 { share } else { 1.0 };
            Shape::Moving {
                regions,
                period: span(notes, place, "period", split.period, HOP),
                share,
            }
        }
        "sine" => {
            let swing = split.swing.unwrap_or(SWING);
            notes.share(&format!("{place}: split.swing"), swing);
            Shape::Sine { regions, period: span(notes, place, "period", split.period, DAY), swing }
        }
        "flash" => flash(notes, place, split, [regions, region], window, multiple),
        other => {
            let known = SHAPES.map(|name| format!("\"{name}\"")).join(", ");
            notes.add(
                place,
                format_args!("`split = \"{other}\"` is unknown; use {known}, or a table `weights`"),
            );
            even()
        }
    }
}

/// What of a split was set that its shape does not have.
fn unfit_settings(notes: &mut Notes, place: &str, split: &file::Split) {
    let given = [
        ("region", split.region.is_some()),
        ("period", split.period.is_some()),
        ("share", split.share.is_some()),
        ("swing", split.swing.is_some()),
        ("base", split.base.is_some()),
        ("add", split.add.is_some()),
        ("every", split.every.is_some()),
        ("lasts", split.lasts.is_some()),
    ];
    let shape = split.shape.as_str();
    let fits = SETTINGS.iter().find(|(name, _)| *name == shape).map_or(&[] as &[&str], |s| s.1);
    for (setting, _) in given.iter().filter(|(name, given)| *given && !fits.contains(name)) {
        let owner = SETTINGS.iter().filter(|(_, settings)| settings.contains(setting));
        let owners: Vec<_> = owner.map(|(name, _)| format!("\"{name}\"")).collect();
        let owners = owners.join(" and ");
        let message = format_args!("split.{setting} is for {owners}, not for \"{shape}\"");
        notes.add(place, message);
    }
}

fn span(
    notes: &mut Notes,
    place: &str,
    setting: &str,
    given: Option<file::Length>,
    usual: Span,
) -> Span {
    let span = given.map_or(usual, |length| length.0);
    if (SPAN_MIN..=SPAN_MAX).contains(&span) {
        return span;
    }
    notes.add(place, format_args!("split.{setting} must be 1ms to 400d"));
    usual
}

/// The base of a flash in multiples of the limit, and the part of the time that flashes last.
fn flash_of(split: &file::Split, window: Span) -> (f64, Span, Span) {
    let every = split.every.map_or(window.times(FLASH_EVERY), |length| length.0);
    let lasts = split.lasts.map_or(window.times(FLASH_LASTS), |length| length.0);
    (split.base.unwrap_or(BASE), every, lasts)
}

/// The mean, in multiples of the limit, of a load with flashes of `add` times the limit beside its base.
pub(super) fn mean_of_flash(split: &file::Split, add: f64, window: Span) -> f64 {
    let (base, every, lasts) = flash_of(split, window);
    base + add * lasts.0 as f64 / every.0.max(1) as f64
}

fn flash(
    notes: &mut Notes,
    place: &str,
    split: &file::Split,
    [regions, region]: [usize; 2],
    window: Span,
    multiple: f64,
) -> Shape {
    let (base, every, lasts) = flash_of(split, window);
    if lasts < SPAN_MIN || every <= lasts || every > SPAN_MAX {
        notes.add(
            place,
            "split.every must be longer than split.lasts, at most 400d, and that 1ms or longer",
        );
        return Shape::Still(vec![1.0; regions]);
    }
    if !(base >= 0.0 && base <= multiple) {
        notes.add(place, format_args!(
            "split.base is {base} times the limit; must be 0 or more, and not more than the whole load, {multiple}"));
        return Shape::Still(vec![1.0; regions]);
    }
    let base = base / multiple;
    let more = (1.0 - base) * every.0 as f64 / lasts.0 as f64;
    Shape::Flash { regions, base, more, region, every, lasts }
}

/// The table of weights; they need not add up to 1.
fn weights(
    notes: &mut Notes,
    place: &str,
    table: &BTreeMap<String, f64>,
    topology: &Topology,
) -> Shape {
    let mut weights = vec![0.0; topology.regions.len()];
    for (name, weight) in table {
        if !(weight.is_finite() && *weight >= 0.0) {
            notes.add(place, format_args!("weight {weight} of `{name}` must be 0 or more"));
        } else if let Some(at) = notes.region(place, topology, name) {
            weights[at] = *weight;
        }
    }
    let sum: f64 = weights.iter().sum();
    if !(sum.is_finite() && sum > 0.0) {
        notes.add(place, "`weights` must add up to more than 0");
        return Shape::Still(weights);
    }
    Shape::Still(weights.iter().map(|weight| weight / sum).collect())
}

pub(super) fn bursts(notes: &mut Notes, place: &str, file: &file::Bursty) -> Bursts {
    let bursts = Bursts {
        rates: file.rates,
        stays: file.stays.map(|length| length.0),
        together: file.together,
    };
    let [a, b] = bursts.rates;
    if !(a >= 0.0 && b >= 0.0 && (a + b).is_finite() && a + b > 0.0) {
        notes.add(place, "bursty.rates are two numbers of 0 or more, such as [1.0, 9.0]: how the rates of the two states compare");
    }
    if !bursts.stays.iter().all(|stay| (SPAN_MIN..=SPAN_MAX).contains(stay)) {
        notes.add(place, "bursty.stays are two spans of 1ms to 400d, such as [\"3s\", \"1s\"]: how long the states last on average");
    }
    bursts
}

/// Notes what says beside a trace how requests should come.
pub(super) fn unfit_beside_trace(notes: &mut Notes, place: &str, load: &file::Load) {
    let given = [
        ("multiple", load.multiple.is_some()),
        ("per_second", load.per_second.is_some()),
        ("split", load.split.is_some()),
        ("weights", load.weights.is_some()),
        ("bursty", load.bursty.is_some()),
        ("cost", load.cost.is_some()),
    ];
    for (name, _) in given.into_iter().filter(|(_, given)| *given) {
        notes.add(
            place,
            format_args!("`{name}` beside `trace`, which says what comes; leave one out"),
        );
    }
}
