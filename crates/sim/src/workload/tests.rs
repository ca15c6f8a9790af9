use std::sync::Arc;

use super::*;
use crate::scenario::Callers;

const SECOND: u64 = 1_000_000;

fn traffic(per_second: f64, shape: Shape) -> Traffic {
    Traffic { per_second, shape, bursts: None, cost: Cost::Constant(1) }
}

fn load(traffic: Traffic, callers: u64) -> Load {
    Load {
        attributes: Vec::new(),
        caller: Some("user".into()),
        callers: Callers::Numbered(callers),
        requests: Requests::Random(traffic),
        start: Span::ZERO,
        end: None,
    }
}

/// Everywhere alike in three regions.
fn even() -> Shape {
    Shape::Still(vec![1.0 / 3.0; 3])
}

/// Times of all requests by region, from all sources of one load.
fn times(load: Load, seconds: u64) -> Vec<Vec<u64>> {
    let mut times = vec![Vec::new(); 3];
    for source in &mut Source::all(&[load], &[0], 7, Span::secs(seconds)) {
        while let Some(at) = source.next(Instant(0)) {
            times[source.arrival().region].push(at.0);
        }
    }
    times
}

#[test]
fn requests_come_at_their_rate() {
    let shares = Shape::Still(vec![0.8, 0.0, 0.2]);
    let times = times(load(traffic(1_250.0, shares), 1), 40);
    assert!(times[1].is_empty());
    for (times, rate) in [(&times[0], 1_000.0), (&times[2], 250.0)] {
        let n = times.len() as f64;
        assert!((n / (40.0 * rate) - 1.0).abs() < 0.03, "{n} at {rate}");
        assert!(times.is_sorted() && times.iter().all(|at| *at < 40 * SECOND));
    }
}

/// How much the number of requests in pieces of this length varies; 1 if they come as Poisson says.
fn dispersion(times: &[u64], piece: u64) -> f64 {
    let mut counts = vec![0_f64; (times.last().expect("some") / piece) as usize];
    for at in times {
        if let Some(count) = counts.get_mut((at / piece) as usize) {
            *count += 1.0;
        }
    }
    let mean = counts.iter().sum::<f64>() / counts.len() as f64;
    counts.iter().map(|n| (n - mean) * (n - mean)).sum::<f64>() / counts.len() as f64 / mean
}

#[test]
fn gaps_are_as_irregular_as_poisson_says() {
    let times = times(load(traffic(3_000.0, even()), 1), 100);
    let dispersion = dispersion(&times[0], SECOND / 10);
    assert!((0.85..1.15).contains(&dispersion), "{dispersion}");
}

/// Whatever moves, the mean over whole periods and all regions is what was asked for.
#[test]
fn every_shape_has_the_mean_that_was_asked_for_and_its_own_ups_and_downs() {
    let second = Span::secs(1);
    let moving = Shape::Moving { regions: 3, period: second.times(5), share: 0.9 };
    let sine = Shape::Sine { regions: 3, period: second.times(30), swing: 0.9 };
    let (every, lasts) = (second.times(7), second.times(2));
    // 0.5 of the limit always, 10 more in a flash, at a mean of 0.5 + 10 * 2/7.
    let mean = 0.5 + 20.0 / 7.0;
    let (base, more) = (0.5 / mean, 10.0 / mean);
    let flash = Shape::Flash { regions: 3, base, more, region: 1, every, lasts };
    let one = Shape::Still(vec![0.0, 1.0, 0.0]);
    // Of each: what share of all comes to region 1, and of that in the two seconds from second 5 on.
    for (shape, here, then) in [
        (one, 1.0, 2.0 / 210.0),
        (moving, 1.0 / 3.0, 3.0 * 0.9 * 2.0 / 210.0),
        // Around 60° of its day before its noon at second 10: 1 + 0.9 * cos 48°, for the mean of that.
        (sine, 1.0 / 3.0, (1.0 + 0.9 * 0.666) * 2.0 / 210.0),
        (flash, base / 3.0 + more * 2.0 / 7.0, 0.0),
    ] {
        let times = times(load(traffic(1_000.0, shape.clone()), 1), 210);
        let all: usize = times.iter().map(Vec::len).sum();
        assert!((all as f64 / 210_000.0 - 1.0).abs() < 0.01, "{shape:?}: {all} in all");
        let share = times[1].len() as f64 / all as f64;
        assert!((share - here).abs() < 0.01, "{shape:?}: {share} in region 1");
        let during = times[1].iter().filter(|at| (5 * SECOND..7 * SECOND).contains(at)).count();
        let wanted =
            if then > 0.0 { then * here * 210_000.0 } else { (base / 3.0 + more) * 2_000.0 };
        let ratio = during as f64 / wanted;
        assert!((0.93..1.07).contains(&ratio), "{shape:?}: {during} at once, not {wanted}");
    }
}

#[test]
fn bursts_keep_the_mean_and_are_far_from_poisson() {
    let bursts =
        Bursts { rates: [1.0, 9.0], stays: [Span::secs(3), Span::secs(1)], together: false };
    let bursty = Traffic { bursts: Some(bursts), ..traffic(300.0, even()) };
    let times = times(load(bursty, 1), 4_000);
    let all: usize = times.iter().map(Vec::len).sum();
    assert!((all as f64 / 1_200_000.0 - 1.0).abs() < 0.03, "{all}");
    let dispersion = dispersion(&times[0], SECOND);
    assert!(dispersion > 20.0, "{dispersion}");
}

#[test]
fn a_surge_comes_and_goes() {
    let (start, end) = (Span::secs(2), Some(Span::secs(3)));
    let here = Shape::Still(vec![1.0, 0.0, 0.0]);
    let surge = Load { start, end, ..load(traffic(1_000.0, here), 1) };
    let mut source = Source::all(&[surge], &[0], 7, Span::secs(60)).remove(0);
    let times: Vec<_> = std::iter::from_fn(|| source.next(Instant(500_000))).collect();
    assert!((900..1_100).contains(&times.len()), "{}", times.len());
    assert!(times.iter().all(|at| (2_500_000..3_500_000).contains(&at.0)));
}

#[test]
fn callers_are_drawn_from_their_own_load() {
    let loads = [load(traffic(1.0, even()), 3), load(traffic(1.0, even()), 2)];
    let mut source = Source::all(&loads, &[0, 3], 7, Span::secs(9)).remove(3);
    let mut seen: Vec<_> = (0..100).map(|_| source.arrival().subject).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [3, 4]);
}

/// All that a source makes.
fn requests(source: &mut Source) -> Vec<(Instant, Arrival)> {
    let mut next = || source.next(Instant(0)).map(|at| (at, source.arrival()));
    std::iter::from_fn(&mut next).collect()
}

#[test]
fn one_more_load_changes_none_before_it() {
    let cost = Cost::Geometric { mean: 3.0 };
    let bursts = Some(Bursts { rates: [1.0, 5.0], stays: [Span::secs(1); 2], together: true });
    let first = load(Traffic { cost, bursts, ..traffic(100.0, even()) }, 5);
    let more = load(Traffic { bursts, ..traffic(500.0, even()) }, 1);
    let alone = Source::all(std::slice::from_ref(&first), &[0], 7, Span::secs(20));
    let beside = Source::all(&[first, more], &[0, 5], 7, Span::secs(20));
    assert_eq!((alone.len(), beside.len()), (3, 6));
    for (mut alone, mut beside) in alone.into_iter().zip(beside) {
        let made = requests(&mut alone);
        assert!(made.len() > 300);
        assert_eq!(made, requests(&mut beside));
    }
}

#[test]
fn costs_shift_no_arrival() {
    let times_of = |cost| times(load(Traffic { cost, ..traffic(300.0, even()) }, 5), 10);
    assert_eq!(times_of(Cost::Constant(1)), times_of(Cost::Uniform { least: 1, most: 9 }));
}

#[test]
fn a_recording_is_replayed_as_it_is_shifted_and_cut_off() {
    let text = "time,region,caller,cost\n0.5,us,b,3\n1,eu,a,1\n1.2,eu,b,2\n4,us,a,1\n";
    let recording = Arc::new(Recording::parse(text, &["eu", "us"]).expect("good"));
    let recorded = Load {
        callers: Callers::Named(recording.clone()),
        requests: Requests::Recorded(recording),
        start: Span::secs(2),
        end: Some(Span::secs(6)),
        ..load(traffic(1.0, even()), 1)
    };
    let mut sources = Source::all(&[recorded], &[10], 7, Span::secs(60));
    assert_eq!(sources.len(), 1);
    let of = |at, region, subject, cost| (Instant(at), Arrival { region, subject, cost });
    let expected = [of(2_500_000, 1, 10, 3), of(3_000_000, 0, 11, 1), of(3_200_000, 0, 10, 2)];
    assert_eq!(requests(&mut sources[0]), expected, "the last one would come when it has ended");
}
