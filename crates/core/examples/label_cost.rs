//! What cutting time into labels costs: by a length, and by the calendar in time zones with few rules and with many.
//!
//! Instants are a year's, in a scattered order. Of each the label is found, and its two ends, as a check does.
//!
//!     cargo run --release -p tidegate-core --example label_cost

use std::{
    hint::black_box,
    io::{self, Write as _},
    time::Instant,
};

use tidegate_core::time::{ClusterTime, Span, Unit, Window, Zone};

const CALLS: u64 = 5_000_000;
/// 2026-11-29T00:00:00Z, in µs.
const FROM: u64 = 1_795_910_400_000_000;
const YEAR: u64 = 365 * 86_400_000_000;

fn main() -> io::Result<()> {
    let zone = |name: &str| Zone::named(name).ok_or_else(|| io::Error::other(name.to_owned()));
    let hour = Window::new(Span::secs(3_600)).ok_or_else(|| io::Error::other("an hour"))?;
    let of = |unit, name: &str| Ok::<_, io::Error>(Window::calendar(unit, zone(name)?));
    for (what, window) in [
        ("an hour", hour),
        ("a day in UTC", of(Unit::Day, "UTC")?),
        ("a day in Zurich", of(Unit::Day, "Europe/Zurich")?),
        ("a week in Zurich", of(Unit::Week, "Europe/Zurich")?),
        ("a month in Zurich", of(Unit::Month, "Europe/Zurich")?),
        ("a month in Casablanca", of(Unit::Month, "Africa/Casablanca")?),
    ] {
        let label = cost(|now| window.label_at(now).0);
        let ends = cost(|now| {
            let label = window.label_at(now);
            window.start(label).0 ^ window.end(label).0
        });
        let line = format!("{what}: {label:.1} ns for a label, {ends:.1} ns with its two ends");
        writeln!(io::stdout(), "{line}")?;
    }
    Ok(())
}

/// Nanoseconds of one call.
fn cost(call: impl Fn(ClusterTime) -> u64) -> f64 {
    let mut sum = 0;
    #[expect(clippy::disallowed_methods, reason = "this program measures time")]
    let began = Instant::now();
    for n in 0..CALLS {
        let scattered = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % YEAR;
        sum ^= call(black_box(ClusterTime(FROM + scattered)));
    }
    black_box(sum);
    began.elapsed().as_nanos() as f64 / CALLS as f64
}
