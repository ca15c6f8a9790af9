//! Windows that are units of the calendar.

use super::*;
use crate::time::{Unit, Zone};

fn limit(lines: &str) -> Limit {
    let set = PolicySet::parse(&file("key = []", lines));
    set.unwrap_or_else(|mistakes| panic!("{mistakes:?}")).policies[0].limits[0].clone()
}

fn window(unit: Unit, zone: &str) -> Window {
    Window::calendar(unit, Zone::named(zone).expect(zone))
}

#[test]
fn a_unit_of_the_calendar_is_a_window() {
    let zurich = "time_zone = \"Europe/Zurich\"";
    for (word, unit) in [("day", Unit::Day), ("week", Unit::Week), ("month", Unit::Month)] {
        let limit = limit(&format!("window = \"{word}\"\n{zurich}"));
        assert_eq!(limit.window, window(unit, "Europe/Zurich"));
        assert_eq!(limit.window.length(), None);
    }
    let everywhere = format!("window = \"month\"\n{zurich}\nscope = \"global\"\nconsistency = ");
    for consistency in
        ["\"plain\"", "\"eventual\"", "\"strict\"", "\"bounded\"\noverdraft = \"1%\""]
    {
        let limit = limit(&format!("{everywhere}{consistency}"));
        assert_eq!(limit.window, window(Unit::Month, "Europe/Zurich"));
    }
}

#[test]
fn the_example_says_what_it_shows() {
    let text = include_str!("../../../../../../config/quotas.example.toml");
    let set = PolicySet::parse(text).expect("the example is right");
    let limits: Vec<_> = set.policies.iter().flat_map(|policy| &policy.limits).collect();
    let shown = limits.iter().map(|limit| (&*limit.name, limit.window, limit.consistency));
    let shown: Vec<_> = shown.collect();
    let expected = [
        ("monthly", window(Unit::Month, "Europe/Zurich"), Consistency::Strict),
        ("daily", window(Unit::Day, "Europe/Zurich"), Consistency::Eventual),
        ("weekly", window(Unit::Week, "America/Sao_Paulo"), Consistency::Plain),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn a_calendar_without_a_zone_is_that_of_utc() {
    let (said, left_out) =
        (limit("window = \"day\"\ntime_zone = \"UTC\""), limit("window = \"day\""));
    assert_eq!(left_out.window, window(Unit::Day, "UTC"));
    assert_eq!(said, left_out);
}

#[test]
fn unit_and_zone_are_part_of_a_limits_number_and_a_length_is_another() {
    let of = |lines: &str| limit(lines).id;
    let day = of("window = \"day\"\ntime_zone = \"Europe/Zurich\"");
    assert_eq!(day, LimitId::of(&["p", "l", "fixed-window", "day Europe/Zurich", "region"]));
    assert_ne!(day, of("window = \"day\"\ntime_zone = \"Europe/Berlin\""));
    assert_ne!(day, of("window = \"week\"\ntime_zone = \"Europe/Zurich\""));
    assert_ne!(of("window = \"day\""), of("window = \"24h\""));
}

#[test]
fn nodes_that_decide_by_another_calendar_have_another_hash() {
    let hash = |lines: &str| PolicySet::parse(&file("key = []", lines)).expect("right").hash;
    let day = hash("window = \"day\"\ntime_zone = \"Europe/Zurich\"");
    assert_eq!(day, hash("time_zone = \"Europe/Zurich\"\nwindow = \"day\""));
    assert_ne!(day, hash("window = \"day\"\ntime_zone = \"Europe/Berlin\""));
    assert_ne!(day, hash("window = \"month\"\ntime_zone = \"Europe/Zurich\""));
}

#[test]
fn a_zone_that_is_not_known_is_refused_and_a_near_one_named() {
    for (zone, meant) in [
        ("Europe/Zürich", "did you mean \"Europe/Zurich\"?"),
        ("europe/zurich", "did you mean \"Europe/Zurich\"?"),
        ("Zurich", "did you mean \"Europe/Zurich\"?"),
        ("America/NewYork", "did you mean \"America/New_York\"?"),
        ("US/New_York", "did you mean \"America/New_York\"?"),
        ("Utc", "\"UTC\""),
        ("", "names are such as \"Europe/Zurich\" or \"UTC\""),
        ("GMT+99:00", "names are such as"),
    ] {
        let mistake = of_limit(&format!("window = \"day\"\ntime_zone = \"{zone}\""));
        let place = "8: policy \"p\", limit \"l\", field \"time_zone\": ";
        assert!(mistake.starts_with(&format!("{place}\"{zone}\" is no time zone")), "{mistake}");
        assert!(mistake.contains(meant), "{mistake}");
    }
    let mistake = of_limit("window = \"day\"\ntime_zone = 1");
    assert!(mistake.contains("is a whole number, must be a string"), "{mistake}");
}

#[test]
fn a_length_has_no_zone() {
    let mistake = of_limit("window = \"1d\"\ntime_zone = \"UTC\"");
    assert!(
        mistake.starts_with("8: policy \"p\", limit \"l\", field \"time_zone\": is for windows of")
    );
    let both = mistakes(&file("key = []", "window = \"1x\"\ntime_zone = \"UTC\""));
    assert_eq!(both.len(), 2, "{both:?}");
    // Without a window nobody knows whether a zone is right.
    let text = file("key = []", "time_zone = \"UTC\"");
    let [missing] = &mistakes(&text)[..] else { panic!("one") };
    assert!(missing.contains("field \"window\": is missing: write window = "), "{missing}");
}

#[test]
fn a_mistyped_unit_is_told() {
    let mistake = of_limit("window = \"months\"");
    assert!(mistake.contains("or did you mean \"month\"?"), "{mistake}");
}

#[test]
fn only_fixed_windows_go_by_the_calendar() {
    for algorithm in ["sliding-window", "sliding-log", "token-bucket", "leaky-bucket"] {
        let mistake = of_limit(&format!("window = \"week\"\nalgorithm = \"{algorithm}\""));
        let place = "8: policy \"p\", limit \"l\", field \"algorithm\": ";
        let told = format!("{place}{algorithm} reckons with a length, and a week of the calendar");
        assert!(mistake.starts_with(&told), "{mistake}");
    }
}
