//! Whole policy files, good and bad.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};

use proptest::prelude::*;

use super::*;
use crate::time::Span;

mod calendar;

const EXAMPLE: &str = include_str!("../../../../../config/policies.example.toml");

/// A file of one policy with one limit; `policy` and `limit` are further lines of each.
fn file(policy: &str, limit: &str) -> String {
    format!(
        "[[policy]]\nname = \"p\"\n{policy}\n[[policy.limit]]\nname = \"l\"\nquantity = 1\n{limit}\n"
    )
}

/// The mistakes of a file as people see them.
fn mistakes(text: &str) -> Vec<String> {
    let mistakes = PolicySet::parse(text).expect_err("the file has mistakes");
    mistakes.iter().map(Mistake::to_string).collect()
}

/// The one mistake that further lines of a policy and of its limit make.
fn only_mistake(policy: &str, limit: &str) -> String {
    let mut mistakes = mistakes(&file(policy, limit));
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    mistakes.remove(0)
}

fn of_policy(lines: &str) -> String {
    only_mistake(lines, "window = \"1s\"")
}

fn of_limit(lines: &str) -> String {
    only_mistake("key = []", lines)
}

#[test]
fn the_example_says_what_it_shows() {
    let set = PolicySet::parse(EXAMPLE).expect("the example is right");
    let [policy] = &set.policies[..] else { panic!("one policy") };
    assert_eq!(&*policy.name, "public-api");
    let shown: Vec<_> =
        policy.matches.iter().map(|(name, glob)| (&**name, glob.as_str())).collect();
    assert_eq!(shown, [("route", "/api/**")]);
    assert_eq!(policy.key, ["api_key", "user", "ip"].map(|name| vec![Box::from(name)]));
    assert_eq!((policy.on_store_failure, policy.shadow), (OnStoreFailure::Degrade, false));
    let [per_second, hourly] = &policy.limits[..] else { panic!("two limits") };
    assert_eq!((&*per_second.name, per_second.quantity), ("per-second", 100));
    assert_eq!(per_second.window.length(), Some(Span::secs(1)));
    assert_eq!(per_second.scope, Scope::Region);
    let expected = Limit {
        name: "hourly".into(),
        quantity: 1_000,
        window: Window::new(Span::secs(3_600)).expect("in range"),
        algorithm: Algorithm::FixedWindow,
        scope: Scope::Global,
        consistency: Consistency::Plain,
        id: LimitId::of(&["public-api", "hourly", "fixed-window", "3600000000", "global"]),
    };
    assert_eq!(hourly, &expected);
}

#[test]
fn spending_by_rights_is_another_shape_and_other_modes_are_not() {
    let id = |consistency: &str| {
        let limit = format!("window = \"1h\"\nscope = \"global\"\nconsistency = {consistency}");
        PolicySet::parse(&file("key = []", &limit)).expect("right").policies[0].limits[0].id
    };
    assert_eq!(id("\"plain\""), id("\"eventual\""));
    assert_eq!(id("\"strict\""), id("\"bounded\"\noverdraft = \"2%\""));
    assert_ne!(id("\"eventual\""), id("\"strict\""));
}

#[test]
fn what_is_left_out_has_its_default() {
    let set = PolicySet::parse(&file("key = []", "window = \"250ms\"")).expect("right");
    let policy = &set.policies[0];
    assert_eq!(policy.on_store_failure, OnStoreFailure::Degrade);
    assert!(!policy.shadow && policy.matches.is_empty() && policy.key.is_empty());
    let limit = &policy.limits[0];
    assert_eq!((limit.algorithm, limit.scope), (Algorithm::FixedWindow, Scope::Region));
    assert_eq!(limit.window.length(), Some(Span::millis(250)));
}

#[test]
fn keys_are_alternatives_of_one_or_more_attributes() {
    let text = file("key = [\"user\", [\"tenant\", \"route\"]]", "window = \"1s\"");
    let set = PolicySet::parse(&text).expect("right");
    let expected = vec![vec!["user".into()], vec!["tenant".into(), "route".into()]];
    assert_eq!(set.policies[0].key, expected);
}

#[test]
fn no_policies_are_fine() {
    let set = PolicySet::parse("# nothing yet\n").expect("right");
    assert_eq!(set, PolicySet::default());
    assert_eq!(set.hash.len(), 16);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = r#"# two policies
[[policy]]
name = "public-api"
key = ["api_key"]
on_store_failure = "opened"

[[policy.limit]]
name = "burst"
quantity = 0
window = "1s"

[[policy.limit]]
name = "hourly"
quantity = 5000
windw = "1h"
scope = "global"
consistency = "plain"

[[policy]]
name = "public-api"
key = "user"
[[policy.limit]]
name = "daily"
quantity = 9
window = "1d"
"#;
    assert_eq!(
        mistakes(text),
        [
            r#"5: policy "public-api", field "on_store_failure": unknown value "opened"; did you mean "open"? known are "degrade", "open", "closed""#,
            r#"9: policy "public-api", limit "burst", field "quantity": must be a whole number from 1 to 9007199254740991"#,
            r#"12: policy "public-api", limit "hourly", field "window": is missing: write window = "1h""#,
            r#"15: policy "public-api", limit "hourly", field "windw": unknown; did you mean "window"? known are "name", "quantity", "window", "time_zone", "algorithm", "burst", "shaper", "scope", "consistency", "overdraft""#,
            r#"20: policy "public-api", field "name": line 3 has this name already: names are unique"#,
            r#"21: policy "public-api", field "key": is a string, must be a list of attribute names, or of lists of them, such as ["api_key", ["tenant", "route"]]"#,
        ]
    );
}

#[test]
fn a_syntax_error_is_told_alone() {
    let mistakes = mistakes("[[policy]]\nname = 1\nkey = [\n[[x\n");
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].contains(": not TOML: "), "{mistakes:?}");
    let twice = "a = 1\na = 2\n";
    assert!(self::mistakes(twice)[0].starts_with("2: not TOML: duplicate key"), "{twice}");
}

#[test]
fn tables_are_told_from_lists_of_tables() {
    let text = "[policy]\nname = \"p\"\n";
    assert_eq!(
        mistakes(text),
        [
            r#"1: field "policy": is a table, must be one or more tables, each under its own [[policy]]"#
        ]
    );
    assert_eq!(
        mistakes("policy = [1]\n[limit]\n"),
        [
            r#"1: field "policy": is a whole number, must be a table under [[policy]]"#,
            r#"2: field "limit": unknown; only "policy" is known"#,
        ]
    );
}

#[test]
fn names_are_fit_for_metrics_and_headers() {
    for bad in ["", "a b", "a\\nb", "ä", &"x".repeat(65)] {
        let text = file("key = []", "window = \"1s\"").replace("\"l\"", &format!("\"{bad}\""));
        assert!(mistakes(&text)[0].contains("is not a name"), "{bad}");
    }
    let text =
        file("key = []", "window = \"1s\"").replace("\"l\"", &format!("\"{}\"", "x".repeat(64)));
    assert!(PolicySet::parse(&text).is_ok());
}

#[test]
fn a_limit_name_stands_once_in_its_policy() {
    let limit = "[[policy.limit]]\nname = \"l\"\nquantity = 1\nwindow = \"2s\"\n";
    let text = file("key = []", "window = \"1s\"") + limit;
    assert_eq!(
        mistakes(&text),
        [
            r#"9: policy "p", limit "l", field "name": line 5 has this name already: names are unique"#
        ]
    );
    let other = format!("[[policy]]\nname = \"q\"\nkey = []\n{limit}");
    assert!(PolicySet::parse(&(file("key = []", "window = \"1s\"") + &other)).is_ok());
}

#[test]
fn a_policy_without_a_name_is_known_by_its_number() {
    assert_eq!(
        mistakes("[[policy]]\nkey = []\nlimit = []\n"),
        [
            r#"1: policy 1, field "name": is missing: write name = "public-api""#,
            r#"3: policy 1, field "limit": is empty: a policy has at least one [[policy.limit]]"#,
        ]
    );
}

#[test]
fn a_policy_says_whom_it_counts_and_limits() {
    assert!(of_policy("").starts_with("1: policy \"p\", field \"key\": is missing: write key = ["));
    let mistakes = mistakes("[[policy]]\nname = \"p\"\nkey = []\n");
    assert_eq!(
        mistakes,
        [
            r#"1: policy "p", field "limit": is missing: write at least one [[policy.limit]] below the policy"#
        ]
    );
}

#[test]
fn attributes_and_globs_are_checked() {
    let long = "x".repeat(65);
    for (lines, message) in [
        (
            "match = 1\nkey = []",
            "3: policy \"p\", field \"match\": is a whole number, must be a table of attributes and globs",
        ),
        (
            "key = []\nmatch = { route = 1 }",
            "4: policy \"p\", field \"match\", field \"route\": is a whole number, must be a string",
        ),
        (
            "key = []\nmatch.route = '/\\'",
            "4: policy \"p\", field \"match\", field \"route\": the pattern ends in `\\`",
        ),
        (&format!("key = []\nmatch = {{ {long} = \"*\" }}"), "4: policy"),
        (
            "key = [\n\"a\",\n1]",
            "5: policy \"p\", field \"key\": is a whole number, must be a string",
        ),
        ("key = [[]]", "3: policy \"p\", field \"key\": an alternative names no attribute"),
        ("key = [[[\"a\"]]]", "3: policy \"p\", field \"key\": is a list, must be a string"),
        ("key = [\"\"]", "3: policy \"p\", field \"key\": \"\" is not the name of an attribute"),
        (&format!("key = [\"{long}\"]"), "3: policy \"p\", field \"key\": \"xxx"),
        (
            "key = []\nshadow = \"yes\"",
            "4: policy \"p\", field \"shadow\": is a string, must be true or false",
        ),
    ] {
        let mistake = of_policy(lines);
        assert!(mistake.starts_with(message), "{mistake}");
    }
    let glob = format!("key = []\nmatch = {{ route = \"{}\" }}", "x".repeat(513));
    assert!(of_policy(&glob).contains("513 bytes"));
    let many: Vec<_> = (0..33).map(|n| format!("\"a{n}\"")).collect();
    let many = many.join(", ");
    assert!(of_policy(&format!("key = [{many}]")).contains("more than 32 elements"));
    assert!(of_policy(&format!("key = [[{many}]]")).contains("more than 32 elements"));
    let entries = many.replace(',', " = \"*\",");
    let matches = format!("key = []\nmatch = {{ {entries} = \"*\" }}");
    assert!(of_policy(&matches).contains("more than 32 attributes"));
}

#[test]
fn every_entry_of_a_table_is_read() {
    let text = file("key = [1, 2, \"\"]\nmatch = { a = 1, b = 2 }", "window = \"1s\"");
    assert_eq!(mistakes(&text).len(), 5);
}

#[test]
fn quantities_and_windows_have_ranges() {
    let quantity = |text: &str| {
        let file = file("key = []", "window = \"1s\"");
        PolicySet::parse(&file.replace("quantity = 1", &format!("quantity = {text}")))
    };
    for good in ["1", "9007199254740991", "5_000", "0xff"] {
        assert!(quantity(good).is_ok(), "{good}");
    }
    for bad in
        ["0", "-1", "9007199254740992", "99999999999999999999999", "1.5", "\"9\"", "2026-01-01"]
    {
        assert_eq!(quantity(bad).expect_err(bad).len(), 1, "{bad}");
    }
    for good in ["1ms", "400d"] {
        assert!(
            PolicySet::parse(&file("key = []", &format!("window = \"{good}\""))).is_ok(),
            "{good}"
        );
    }
    for (bad, message) in [
        ("0s", "\"0s\" is not within \"1ms\" to \"400d\""),
        ("401d", "\"401d\" is not within \"1ms\" to \"400d\""),
        ("1h30m", "\"1h30m\" is not a span of time"),
        ("60", "\"60\" is not a span of time"),
    ] {
        let mistake = of_limit(&format!("window = \"{bad}\""));
        assert!(
            mistake.starts_with("7: policy \"p\", limit \"l\", field \"window\": "),
            "{mistake}"
        );
        assert!(mistake.contains(message), "{mistake}");
    }
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let others = ["sliding-window", "sliding-log", "token-bucket", "leaky-bucket", "concurrency"];
    for algorithm in others {
        let global = format!("window = \"1s\"\nscope = \"global\"\nalgorithm = \"{algorithm}\"");
        let mistake = of_limit(&global);
        assert!(mistake.contains(&format!("{algorithm} is not built yet for global")), "{mistake}");
    }
    for field in ["tier.premium.quantity.l = 2", "override = []"] {
        assert!(of_policy(&format!("key = []\n{field}")).contains("not built yet"), "{field}");
    }
}

#[test]
fn a_global_limit_says_what_it_promises_and_a_regional_one_does_not() {
    let text = "[[policy]]\nname = \"p\"\nkey = []\n[[policy.limit]]\nname = \"l\"\nquantity = 1\nwindow = \"1s\"\nscope = \"global\"\n";
    let set = PolicySet::parse(text).expect("the default is eventual");
    assert_eq!(set.policies[0].limits[0].consistency, Consistency::Eventual);
    let mistake = of_limit("window = \"1s\"\nconsistency = \"plain\"");
    assert!(
        mistake.starts_with("8: policy \"p\", limit \"l\", field \"consistency\": is for global")
    );
}

#[test]
fn a_bounded_limit_says_by_how_much_it_may_be_exceeded() {
    let of = |lines: &str| {
        let start = "[[policy]]\nname = \"p\"\nkey = []\n[[policy.limit]]\nname = \"l\"\nquantity = 1\nwindow = \"1s\"\nscope = \"global\"\n";
        let set = PolicySet::parse(&format!("{start}{lines}"))?;
        Ok::<_, Vec<Mistake>>(set.policies[0].limits[0].consistency)
    };
    for (part, millionths) in [("2%", 20_000), ("0.25%", 2_500), ("100%", 1_000_000)] {
        let read = of(&format!("consistency = \"bounded\"\noverdraft = \"{part}\""));
        assert_eq!(read, Ok(Consistency::Bounded { overdraft_per_million: millionths }));
    }
    assert_eq!(of("consistency = \"strict\""), Ok(Consistency::Strict));
    for part in ["2", "0%", "101%", "-1%", "1.23456%", "%", ".5%", "1e1%"] {
        let mistakes = of(&format!("consistency = \"bounded\"\noverdraft = \"{part}\""));
        assert!(mistakes.is_err_and(|m| m[0].message.contains("is not a part")), "{part}");
    }
    let missing = of("consistency = \"bounded\"").expect_err("no overdraft");
    assert!(missing[0].message.contains("is missing: write overdraft"), "{}", missing[0]);
    let stray = of("consistency = \"strict\"\noverdraft = \"2%\"").expect_err("not bounded");
    assert!(stray[0].message.contains("is for bounded limits"), "{}", stray[0]);
}

#[test]
fn what_is_spent_by_rights_is_never_admitted_without_the_store() {
    let text = "[[policy]]\nname = \"p\"\nkey = []\non_store_failure = \"open\"\n[[policy.limit]]\nname = \"l\"\nquantity = 1\nwindow = \"1s\"\nscope = \"global\"\nconsistency = \"strict\"\n";
    let mistakes = PolicySet::parse(text).expect_err("open");
    assert!(mistakes[0].to_string().starts_with("4: policy \"p\", field \"on_store_failure\""));
    PolicySet::parse(&text.replace("\"open\"", "\"closed\"")).expect("closed is fine");
}

#[test]
fn limits_and_policies_are_bounded() {
    let limit =
        |n: usize| format!("[[policy.limit]]\nname = \"l{n}\"\nquantity = 1\nwindow = \"1s\"\n");
    let policy = |n: usize| format!("[[policy]]\nname = \"p{n}\"\nkey = []\n{}", limit(0));
    let limits = |count| {
        "[[policy]]\nname = \"p\"\nkey = []\n".to_string()
            + &(0..count).map(limit).collect::<String>()
    };
    let policies = |count| (0..count).map(policy).collect::<String>();
    assert!(PolicySet::parse(&limits(LIMITS_MAX)).is_ok());
    assert!(PolicySet::parse(&policies(POLICIES_MAX)).is_ok());
    assert_eq!(
        mistakes(&limits(LIMITS_MAX + 2)),
        [r#"68: policy "p", field "limit": has more than 16 elements"#]
    );
    assert_eq!(
        mistakes(&policies(POLICIES_MAX + 2)),
        [r#"7001: field "policy": has more than 1000 elements"#]
    );
    let endless = "#".repeat(FILE_BYTES_MAX + 1);
    assert_eq!(mistakes(&endless), ["1: the file has more than 4194304 bytes"]);
}

#[test]
fn two_limits_with_one_number_are_told() {
    let mut names: BTreeMap<LimitId, u32> = BTreeMap::new();
    let (first, second) = (0..)
        .find_map(|n: u32| {
            let id = LimitId::of(&["p", &n.to_string(), "fixed-window", "1000000", "region"]);
            names.insert(id, n).map(|first| (first, n))
        })
        .expect("32 bits are soon used up");
    let limit = |n| format!("[[policy.limit]]\nname = \"{n}\"\nquantity = 1\nwindow = \"1s\"\n");
    let text = format!("[[policy]]\nname = \"p\"\nkey = []\n{}{}", limit(first), limit(second));
    let expected = format!(
        "8: policy \"p\", limit \"{second}\": has by chance the same number as policy \"p\", limit \"{first}\": rename one of them"
    );
    assert_eq!(mistakes(&text), [expected]);
}

#[test]
fn the_hash_is_of_what_decides() {
    let hash = |text: &str| PolicySet::parse(text).expect(text).hash;
    let base = hash(EXAMPLE);
    assert!(base.len() == 16 && base.chars().all(|c| c.is_ascii_hexdigit()), "{base}");
    let bare: String = EXAMPLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("  {line}\r\n"))
        .collect();
    assert_eq!(hash(&bare), base);
    assert_eq!(hash(&EXAMPLE.replace("shadow = false", "").replace("1_000", "0x3e8")), base);
    for (from, to) in [
        ("public-api", "other"),
        ("/api/**", "/api/*"),
        ("route =", "path ="),
        ("\"api_key\", \"user\"", "[\"api_key\", \"user\"]"),
        ("\"user\", \"ip\"", "\"ip\", \"user\""),
        ("\"degrade\"\n", "\"open\"\n"),
        ("shadow = false", "shadow = true"),
        ("hourly", "each-hour"),
        ("1_000", "1_001"),
        ("\"1h\"", "\"2h\""),
        ("scope = \"global\"", "scope = \"region\""),
    ] {
        assert!(EXAMPLE.contains(from), "{from}");
        let mut text = EXAMPLE.replace(from, to);
        if from.starts_with("scope") {
            text = text.replace("consistency = \"plain\"", "");
        }
        assert_ne!(hash(&text), base, "{from}");
    }
}

#[test]
fn nesting_is_no_way_to_overflow_the_stack() {
    for text in [
        "a = ".to_string() + &"[".repeat(100_000),
        "a = ".to_string() + &"{a=".repeat(100_000),
        "a.".repeat(100_000) + "a = 1",
        format!("[[{}a]]", "a.".repeat(100_000)),
        format!("x = {}1{}", format!("{{{}a = ", "a.".repeat(70)).repeat(70), "}".repeat(70)),
        format!("x = {}1{}", "[".repeat(70), "]".repeat(70)),
    ] {
        assert!(PolicySet::parse(&text).is_err());
    }
}

/// Files that are nearly right: the example, with pieces of it replaced.
fn nearly() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[[policy]]\n".to_string()),
        Just("[[policy.limit]]\n".to_string()),
        Just("[policy.tier.x]\n".to_string()),
        "(name|match|key|shadow|quantity|window|scope|consistency|[a-z]{0,9}) = (1|0|-9|true|\"[a-z0-9]{0,4}\"|\\[\\]|\\[\\[\"a\"\\], 1\\]|\\{\\}|\\{a = \"\\*\"\\}|1.5)\n",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_is_read_or_refused(text in any::<String>()) {
        let _ = PolicySet::parse(&text);
    }

    #[test]
    fn nearly_right_text_is_refused_with_lines_in_it(text in nearly()) {
        if let Err(mistakes) = PolicySet::parse(&text) {
            prop_assert!(!mistakes.is_empty());
            prop_assert!(mistakes.is_sorted_by_key(|mistake| mistake.line));
            for mistake in &mistakes {
                prop_assert!((1..=text.lines().count().max(1) + 1).contains(&mistake.line), "{mistake}");
                prop_assert_eq!(mistake.to_string().lines().count(), 1);
            }
        }
    }
}

#[test]
fn each_algorithm_has_its_fields() {
    let limit = |more: &str| {
        let text =
            format!("[[policy]]\nname = \"p\"\nkey = []\n[[policy.limit]]\nname = \"l\"\n{more}\n");
        let set = PolicySet::parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        set.policies[0].limits[0].clone()
    };
    let of = |algorithm: &str, more: &str| {
        limit(&format!("quantity = 10\nwindow = \"1s\"\nalgorithm = \"{algorithm}\"\n{more}"))
    };
    assert_eq!(of("sliding-window", "").algorithm, Algorithm::SlidingWindow);
    assert_eq!(of("sliding-log", "").algorithm, Algorithm::SlidingLog);
    assert_eq!(of("concurrency", "").algorithm, Algorithm::Concurrency);
    let bucket = of("token-bucket", "burst = 20");
    assert_eq!((bucket.algorithm.as_str(), bucket.capacity()), ("token-bucket", 20));
    assert_eq!(of("leaky-bucket", "").capacity(), 10);
    // A shaper is the same key as a meter.
    let shaper = of("leaky-bucket", "shaper = true");
    assert!(shaper.shapes() && !of("leaky-bucket", "shaper = false").shapes());
    assert_eq!(shaper.id, of("leaky-bucket", "").id);
    // Another burst is the same key, and another policy.
    assert_eq!(bucket.id, of("token-bucket", "").id);
    assert_ne!(bucket.id, of("leaky-bucket", "").id);

    let mistake = of_limit("window = \"1s\"\nburst = 2");
    assert!(mistake.contains("field \"burst\": is for buckets"), "{mistake}");
    let mistake = of_limit("window = \"1s\"\nalgorithm = \"token-bucket\"\nshaper = true");
    assert!(mistake.contains("field \"shaper\": is for leaky buckets"), "{mistake}");
    let refused =
        |lines: &str| mistakes(&file("key = []", lines).replace("quantity = 1\n", "")).remove(0);
    let many = refused("quantity = 1001\nwindow = \"1s\"\nalgorithm = \"sliding-log\"");
    assert!(many.contains("more than a sliding-log keeps apart, 1000"), "{many}");
    let many = refused("quantity = 1001\nwindow = \"1s\"\nalgorithm = \"concurrency\"");
    assert!(many.contains("more places than a record holds, 1000"), "{many}");
    let huge = refused(
        "quantity = 999983\nwindow = \"400d\"\nburst = 9007199254740991\nalgorithm = \"token-bucket\"",
    );
    assert!(huge.contains("cannot be counted exactly"), "{huge}");
}
