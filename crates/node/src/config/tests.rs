//! Whole configurations, good and contradictory.

use std::fs;

use tempfile::TempDir;
use tidegate_core::{
    ids::{ConfigEpoch, RegionName, RegionNumber},
    rights::{Regions, Split},
    time::{ClusterTime, Span},
};

use super::*;

const EXAMPLE: &str = include_str!("../../../../config/node.example.toml");

/// A directory with a secret file that is good and one that is not.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("secret"), "0123456789abcdef0123456789abcdef\n")
        .expect("written");
    fs::write(directory.path().join("empty"), "\n").expect("written");
    directory
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, directory().path())
}

/// What is wrong with a configuration, a line for each problem.
fn problems(text: &str) -> Vec<String> {
    let error = parse(text).expect_err("the configuration has problems");
    error.problems.iter().map(Problem::to_string).collect()
}

/// The only problem with a configuration.
fn problem(text: &str) -> String {
    let mut problems = problems(text);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

/// A configuration of a cluster, with one line of its table replaced or (if empty) left out.
fn cluster(field: &str, line: &str) -> String {
    let all = [
        ("listen", "listen = \"127.0.0.1:7946\""),
        ("advertise", ""),
        ("seeds", ""),
        ("ca", "ca = \"ca.pem\""),
        ("cert", "cert = \"node.pem\""),
        ("key", "key = \"node.key\""),
        ("secret_file", "secret_file = \"secret\""),
        ("gossip", ""),
        ("clock_error", ""),
        ("reclaim_after", ""),
    ];
    let lines = all.map(|(name, usual)| if name == field { line } else { usual });
    format!("region = \"eu\"\nnode = \"eu-0\"\n[cluster]\n{}\n", lines.join("\n"))
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

#[test]
fn the_example_says_what_it_shows() {
    let directory = directory();
    let path = |name| directory.path().join(name);
    fs::write(path("node.toml"), EXAMPLE).expect("written");
    let config = Config::load(Some(&path("node.toml"))).expect("the example is right");
    let cluster = config.cluster.clone().expect("the example has a cluster");
    let expected = Config {
        id: NodeId::new("eu", "eu-0").expect("names"),
        policies: Some(path("policies.example.toml")),
        listen: Listen {
            http: address("127.0.0.1:8080"),
            admin: address("127.0.0.1:9090"),
            connections_max: 10_000,
        },
        store: Store::Redis(Redis {
            url: RedisUrl("redis://127.0.0.1:6379/0".into()),
            tls: None,
            timeout: Duration::from_millis(30),
            namespace: "tidegate".into(),
            calls_max: 8_192,
            fence: Duration::from_secs(10),
            breaker: breaker::Settings::default(),
        }),
        remember: Duration::from_secs(3_600),
        cluster: Some(Cluster {
            listen: address("127.0.0.1:7946"),
            advertise: address("127.0.0.1:7946"),
            seeds: vec![Seed::Address(address("127.0.0.1:7956"))],
            ca: path("ca.pem"),
            cert: path("node.pem"),
            key: path("node.key"),
            secret: cluster.secret,
            gossip: Duration::from_millis(50),
            relays: false,
            clock_error: Duration::from_millis(500),
            reclaim_after: Duration::from_secs(30),
            regions: Some(Regions::first(
                Split::even(
                    &["eu", "us", "ap"]
                        .map(|name| RegionNumber::of(&RegionName::new(name).expect("a name"))),
                )
                .expect("three regions"),
            )),
            founded: None,
        }),
        identity: Identity {
            trusted_proxies: ["127.0.0.0/8", "::1/128"]
                .map(|text| text.parse().expect(text))
                .into(),
        },
    };
    assert_eq!(config, expected);
    assert_ne!(cluster.secret, Secret([0; 16]));
}

/// A line of the example that sets a field to its default can as well be left out.
#[test]
fn the_example_names_the_defaults() {
    let full = parse(EXAMPLE).expect("right");
    let mut tried = 0;
    let breaker =
        ["failures", "p95", "calls_min", "in_a_row", "window", "backoff", "backoff_max", "probes"];
    let others = ["http", "admin", "timeout", "namespace", "calls_max", "fence"];
    let cluster = ["advertise", "gossip", "relays", "clock_error", "reclaim_after"];
    for field in others.into_iter().chain(cluster).chain(breaker) {
        let without = |line: &&str| !line.starts_with(&format!("{field} = "));
        let lines: Vec<_> = EXAMPLE.lines().filter(without).collect();
        tried += EXAMPLE.lines().count() - lines.len();
        let config = parse(&lines.join("\n")).expect(field);
        assert_eq!(
            (config.listen, config.store),
            (full.listen.clone(), full.store.clone()),
            "{field}"
        );
        let cluster = |config: Option<Cluster>| {
            config.map(|c| (c.advertise, c.gossip, c.relays, c.clock_error, c.reclaim_after))
        };
        assert_eq!(cluster(config.cluster), cluster(full.cluster.clone()), "{field}");
    }
    assert_eq!(tried, 19);
}

#[test]
fn without_a_file_a_node_is_alone_on_its_machine() {
    let config = Config::load(None).expect("the defaults are right");
    let expected = Config {
        id: NodeId::new("local", "local-0").expect("names"),
        policies: None,
        listen: Listen {
            http: address("127.0.0.1:8080"),
            admin: address("127.0.0.1:9090"),
            connections_max: 10_000,
        },
        store: Store::Memory(Memory { records_max: 4_000_000, snapshot: None }),
        remember: Duration::from_secs(3_600),
        cluster: None,
        identity: Identity::default(),
    };
    assert_eq!(config, expected);
}

#[test]
fn a_region_names_its_node() {
    assert_eq!(parse("region = \"eu\"").expect("right").id.to_string(), "eu/eu-0");
    assert!(problem("region = \"e u\"").starts_with("1: field \"region\": `e u` is not a name"));
    assert!(problem("\nnode = \"\"").starts_with("2: field \"node\": `` is not a name"));
    let long = format!("region = \"{}\"", "x".repeat(63));
    assert!(problem(&long).contains("-0\" is too long: write node"));
}

#[test]
fn regions_that_change_say_what_they_take_the_place_of() {
    let with = |lines: &str| cluster("gossip", lines);
    let number = |name: &str| RegionNumber::of(&RegionName::new(name).expect("a name"));
    let split = |weights: &[(&str, u32)]| {
        Split::new(
            &weights.iter().map(|(name, weight)| (number(name), *weight)).collect::<Vec<_>>(),
        )
        .expect("a split")
    };
    let change = "config_epoch = 2\nregions = { eu = 3, us = 1 }\nregions_before = { eu = 1, ap = 1 }\nregions_gone = [\"ap\"]\nconfig_effective = 1798761600000";
    let config = parse(&with(change)).expect("right");
    let expected = Regions::next(
        ConfigEpoch(2),
        split(&[("eu", 1), ("ap", 1)]),
        split(&[("eu", 3), ("us", 1)]),
        &[number("ap")],
        ClusterTime(1_798_761_600_000_000),
    );
    assert_eq!(config.cluster.expect("a cluster").regions, Some(expected));
    // A region that leaves is no longer among those that are.
    let leaves = change.replace("regions = { eu = 3, us = 1 }", "regions = { us = 1 }");
    assert!(parse(&with(&leaves)).is_ok());

    for (lines, wrong) in [
        (
            "config_epoch = 1",
            "cluster.config_epoch\": numbers a configuration of regions that is not",
        ),
        ("config_epoch = 1\nregions = { eu = 1 }", "cluster.config_epoch\": needs to know what"),
        ("regions = { eu = 1 }\nregions_before = { eu = 2 }", "cluster.regions_before\": is for"),
        (
            "regions = { eu = 1 }\nregions_gone = [\"ap\"]",
            "cluster.regions_gone\": is for regions that have changed",
        ),
        (
            "regions = { eu = 1 }\nconfig_effective = 1798761600000",
            "cluster.config_effective\": is for regions that have changed",
        ),
        (
            &*change.replace("1798761600000", "1798761600"),
            "cluster.config_effective\": must be a time in milliseconds",
        ),
        (
            &*change.replace("[\"ap\"]", "[\"us\"]"),
            "cluster.regions_gone\": names \"us\", which cluster.regions has",
        ),
        (
            &*change.replace("[\"ap\"]", "[\"asia\"]"),
            "cluster.regions_gone\": names \"asia\", which cluster.regions_before has not",
        ),
        (&*change.replace("[\"ap\"]", "[\"eu\"]"), "names the node's own region, \"eu\""),
        (
            &*change.replace("{ eu = 1, ap = 1 }", "{ ap = 0 }"),
            "cluster.regions_before\": the weight",
        ),
        (
            &*change.replace("eu = 3, ", "").replace("eu = 1, ", ""),
            "cluster.regions\": does not name the node's own region",
        ),
    ] {
        let said = problem(&with(lines));
        assert!(said.contains(wrong), "{lines}: {said}");
    }
}

#[test]
fn a_missing_file_is_told() {
    let error = Config::load(Some(Path::new("/nowhere/node.toml"))).expect_err("there is none");
    let text = error.to_string();
    assert!(text.starts_with("/nowhere/node.toml: cannot be read: "), "{text}");
}

#[test]
fn an_endless_file_is_refused() {
    let directory = directory();
    let file = directory.path().join("long.toml");
    fs::write(&file, "#".repeat(FILE_BYTES_MAX as usize + 1)).expect("written");
    let error = Config::load(Some(&file)).expect_err("too long");
    assert!(error.to_string().contains("more than 65536 bytes"), "{error}");
}

#[test]
fn problems_are_shown_with_file_and_line() {
    let directory = directory();
    let file = directory.path().join("node.toml");
    fs::write(&file, "[store]\nurl = \"redis://x\"\ntimeout = \"1s\"\n").expect("written");
    let text = Config::load(Some(&file)).expect_err("two problems").to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    for (line, begin) in
        lines.iter().zip(["2: field \"store.url\": ", "3: field \"store.timeout\": "])
    {
        assert!(line.starts_with(&format!("{}:{begin}", file.display())), "{line}");
    }
}

#[test]
fn what_is_no_configuration_is_told_with_its_line() {
    assert!(problem("\nregion = \n").starts_with("2: "));
    let unknown = problem("[listen]\nhttps = \"x\"");
    assert!(unknown.starts_with("2: unknown field `https`, expected one of `http`"), "{unknown}");
    let typed = problem("\n[store]\ntimeout = 30");
    assert!(typed.starts_with("3: invalid type: integer `30`, expected a string"), "{typed}");
    let deep =
        format!("x = {}1{}", format!("{{{}a = ", "a.".repeat(70)).repeat(70), "}".repeat(70));
    assert_eq!(problem(&deep), "1: nests too deeply");
}

#[test]
fn all_contradictions_are_told_at_once() {
    let text = r#"region = "e/u"
policies = ""
[listen]
http = "localhost"
grpc = "127.0.0.1:8081"
[store]
kind = "redis"
timeout = "6s"
namespace = "a b"
[cluster]
listen = "0.0.0.0:7946"
seeds = ["127.0.0.1:0", "x"]
gossip = "5"
[identity]
trusted_proxies = ["10.0.0.1/8", "10.0.0.1"]
"#;
    let expected = [
        "1: field \"region\"",
        "2: field \"policies\"",
        "4: field \"listen.http\"",
        "5: field \"listen.grpc\": gRPC is not built yet",
        "7: field \"store.url\": is missing",
        "8: field \"store.timeout\": \"6s\" is not within 1ms to 5s",
        "9: field \"store.namespace\"",
        "10: field \"node\": is missing: a cluster needs it",
        "10: field \"cluster.advertise\": is missing: 0.0.0.0:7946",
        "10: field \"cluster.ca\": is missing",
        "10: field \"cluster.cert\": is missing",
        "10: field \"cluster.key\": is missing",
        "10: field \"cluster.secret_file\": is missing",
        "12: field \"cluster.seeds\": 127.0.0.1:0",
        "12: field \"cluster.seeds\": must be an IP address or a host name",
        "13: field \"cluster.gossip\": not a span of time",
        "15: field \"identity.trusted_proxies\": \"10.0.0.1/8\" is not a network, since",
        "15: field \"identity.trusted_proxies\": \"10.0.0.1\" is not a network: write",
    ];
    let problems = problems(text);
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, begin) in problems.iter().zip(expected) {
        assert!(problem.starts_with(begin), "{problem}\nnot {begin}");
    }
}

#[test]
fn http_and_admin_need_an_address_each() {
    for listen in [
        "http = \"127.0.0.1:9090\"",
        "admin = \"127.0.0.1:8080\"",
        "http = \"127.0.0.1:9\"\nadmin = \"127.0.0.1:9\"",
        "http = \"0.0.0.0:9\"\nadmin = \"127.0.0.1:9\"",
        "http = \"127.0.0.1:9\"\nadmin = \"[::]:9\"",
    ] {
        let problem = problem(&format!("[listen]\n{listen}"));
        assert!(problem.contains("meets listen.http"), "{problem}");
    }
    for listen in [
        "http = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"",
        "http = \"127.0.0.1:9\"\nadmin = \"127.0.0.2:9\"",
    ] {
        assert!(parse(&format!("[listen]\n{listen}")).is_ok(), "{listen}");
    }
}

#[test]
fn the_number_of_connections_is_bounded_both_ways() {
    let listen = |max: &str| parse(&format!("[listen]\nconnections_max = {max}"));
    for max in [1, 1_000_000] {
        assert_eq!(listen(&max.to_string()).map(|c| c.listen.connections_max), Ok(max));
    }
    for bad in ["0", "-1", "1000001"] {
        let problem = problem(&format!("[listen]\nconnections_max = {bad}"));
        let expected = format!("2: field \"listen.connections_max\": {bad} is not 1 to 1000000");
        assert_eq!(problem, expected);
    }
}

#[test]
fn the_memory_store_may_have_a_snapshot() {
    let snapshot = |text: &str| match parse(&format!("[store]\n{text}")).expect("right").store {
        Store::Memory(memory) => memory.snapshot,
        other => panic!("{other:?}"),
    };
    assert_eq!(snapshot("kind = \"memory\""), None);
    for (more, secs) in [("", 10), ("\nsnapshot_every = \"1m\"", 60)] {
        let found = snapshot(&format!("snapshot = \"/var/counts\"{more}"));
        let every = Duration::from_secs(secs);
        assert_eq!(found, Some(Snapshot { path: "/var/counts".into(), every }));
    }

    let wrong = |text: &str| problem(&format!("[store]\n{text}"));
    assert!(wrong("snapshot_every = \"1m\"").contains("there is no snapshot"));
    assert!(wrong("snapshot = \"\"").contains("write the path of a file"));
    for bad in ["500ms", "2h"] {
        let text = format!("snapshot = \"x\"\nsnapshot_every = \"{bad}\"");
        assert!(wrong(&text).contains("is not within 1s to 3600s"), "{}", wrong(&text));
    }
    let redis = "kind = \"redis\"\nurl = \"redis://localhost/0\"";
    for setting in ["snapshot = \"x\"", "snapshot_every = \"1m\""] {
        let problem = wrong(&format!("{redis}\n{setting}"));
        assert!(problem.contains("only the memory store has snapshots"), "{problem}");
    }
}

#[test]
fn the_memory_store_has_no_settings() {
    for setting in ["url = \"redis://x\"", "timeout = \"1s\"", "namespace = \"x\""] {
        for kind in ["", "kind = \"memory\"\n"] {
            let problem = problem(&format!("[store]\n{kind}{setting}"));
            assert!(problem.contains("or write kind = \"redis\""), "{problem}");
        }
    }
    assert!(problem("[store]\nkind = \"disk\"").contains("write \"memory\" or \"redis\""));
}

#[test]
fn each_store_has_bounds_of_its_own() {
    let redis = "[store]\nkind = \"redis\"\nurl = \"redis://x\"\n";
    for (text, wanted) in [
        ("[store]\ncalls_max = 5", "2: field \"store.calls_max\": the memory store has no such"),
        (
            "[store]\nrecords_max = 63",
            "2: field \"store.records_max\": 63 is not within 64 to 4000000",
        ),
        ("[store.breaker]\nprobes = 5", "1: field \"store.breaker\": the memory store has no such"),
        (&format!("{redis}records_max = 64"), "4: field \"store.records_max\": Redis has no such"),
        (
            &format!("{redis}calls_max = 0"),
            "4: field \"store.calls_max\": 0 is not within 1 to 65536",
        ),
    ] {
        let problem = problem(text);
        assert!(problem.starts_with(wanted), "{problem}");
    }
    let memory = parse("[store]\nrecords_max = 64").expect("right").store;
    assert_eq!(memory, Store::Memory(Memory { records_max: 64, snapshot: None }));
}

#[test]
fn a_breaker_is_set_within_ranges_that_fit_together() {
    let with = |line: &str| {
        format!("[store]\nkind = \"redis\"\nurl = \"redis://x\"\n[store.breaker]\n{line}")
    };
    for (line, wanted) in [
        ("failures = 0", "store.breaker.failures\": 0 is not within 1 to 100"),
        ("failures = 101", "store.breaker.failures\": 101 is not within 1 to 100"),
        ("failures = 4294967297", "store.breaker.failures\": 4294967297 is not within"),
        ("p95 = \"0ms\"", "store.breaker.p95\": \"0ms\" is not within 1ms to 5s"),
        ("p95 = \"never\"", "store.breaker.p95\": not a span"),
        ("window = \"900ms\"", "store.breaker.window\": \"900ms\" is not within 1s to 600s"),
        (
            "backoff = \"6s\"",
            "store.breaker.backoff_max\": 5s is shorter than `backoff`, which is 6s",
        ),
        ("backoff_max = \"200ms\"", "store.breaker.backoff_max\": 200ms is shorter than"),
        ("probes = 0", "store.breaker.probes\": 0 is not within 1 to 1000"),
    ] {
        let problem = problem(&with(line));
        assert!(problem.starts_with("5: field \"") && problem.contains(wanted), "{problem}");
    }
    let config = parse(&with("p95 = \"off\"\nbackoff = \"10s\"\nbackoff_max = \"10s\""));
    let Store::Redis(redis) = config.expect("right").store else { panic!("a Redis store") };
    assert_eq!((redis.breaker.p95, redis.breaker.backoff), (None, Span::secs(10)));
}

#[test]
fn redis_is_spoken_to_by_certificates_if_its_url_says_so() {
    let with =
        |url: &str, more: &str| format!("[store]\nkind = \"redis\"\nurl = \"{url}\"\n{more}");
    let path = |name: &str| directory().path().join(name).file_name().map(ToOwned::to_owned);
    let tls = |more: &str| match parse(&with("rediss://x", more)).expect("right").store {
        Store::Redis(redis) => redis.tls.expect("by certificates"),
        Store::Memory(_) => panic!("a Redis store"),
    };
    assert_eq!(tls(""), RedisTls { ca: None, client: None });
    let all = tls("ca = \"a\"\ncert = \"b\"\nkey = \"c\"");
    assert_eq!(all.ca.and_then(|ca| ca.file_name().map(ToOwned::to_owned)), path("a"));
    assert!(all.client.is_some());
    for (url, more, wanted) in [
        ("redis://x", "ca = \"a\"", "\"store.ca\": is for TLS: leave it out"),
        ("redis://x", "key = \"c\"", "\"store.key\": is for TLS: leave it out"),
        ("rediss://x", "cert = \"b\"", "\"store.cert\": comes with store.key"),
        ("rediss://x", "key = \"c\"", "\"store.key\": comes with store.cert"),
        ("rediss://x", "ca = \"\"", "\"store.ca\": is empty"),
    ] {
        let problem = problem(&with(url, more));
        assert!(problem.contains(wanted), "{problem}");
    }
}

#[test]
fn redis_is_one_server() {
    let with = |url: &str| format!("[store]\nkind = \"redis\"\nurl = \"{url}\"");
    for (url, wanted) in [
        ("rediss://:hunter2@x/#insecure", "has something behind a # or ?"),
        ("redis://:hunter2@x/0?protocol=resp3", "has something behind a # or ?"),
        ("rediss://:hunter2@x/notanumber", "is not complete"),
        ("unix:///run/redis", "Unix sockets are not built yet"),
        ("redis+unix:///run/redis", "Unix sockets are not built yet"),
        ("redis-sentinel://:hunter2@x", "is not redis-sentinel://host:port"),
        ("rediss+sentinel://:hunter2@x/y", "TLS to sentinels is not built yet"),
        ("redis-cluster://:hunter2@x:1,y/3", "has only database 0"),
        ("redis-cluster://:hunter2@x:1,:hunter2@y:1", "is not redis-cluster://host:port"),
        ("rediss-cluster://:hunter2@x/0#insecure", "has something behind a # or ?"),
        ("http://:hunter2@x", "does not begin with redis://"),
        ("x:6379", "does not begin with redis://"),
        ("redis://", "is not complete"),
        ("redis://:hunter2@x/notanumber", "is not complete"),
    ] {
        let problem = problem(&with(url));
        assert!(
            problem.starts_with("3: field \"store.url\": ") && problem.contains(wanted),
            "{problem}"
        );
        assert!(!problem.contains("hunter2"), "{problem}");
    }
    for namespace in ["", "a:b", &"x".repeat(33)] {
        let text = with("redis://x") + &format!("\nnamespace = \"{namespace}\"");
        assert!(problem(&text).starts_with("4: field \"store.namespace\": "));
    }
    for (timeout, good) in [("1ms", true), ("5s", true), ("0ms", false), ("5001ms", false)] {
        let text = with("redis://x") + &format!("\ntimeout = \"{timeout}\"");
        assert_eq!(parse(&text).is_ok(), good, "{timeout}");
    }
}

#[test]
fn a_password_is_not_shown() {
    let text = "[store]\nkind = \"redis\"\nurl = \"redis://me:hunter2@10.0.0.1:6379/0\"";
    let config = parse(text).expect("right");
    let Store::Redis(redis) = &config.store else { panic!("a Redis store") };
    assert_eq!(redis.url.secret(), "redis://me:hunter2@10.0.0.1:6379/0");
    assert_eq!(redis.url.to_string(), "redis://10.0.0.1:6379/0");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_cluster_needs_names_addresses_certificates_and_a_secret() {
    assert!(parse(&cluster("", "")).is_ok());
    for field in ["listen", "ca", "cert", "key", "secret_file"] {
        assert_eq!(
            problem(&cluster(field, "")),
            format!("3: field \"cluster.{field}\": is missing: a cluster needs it")
        );
    }
    let nameless = cluster("", "").replace("region = \"eu\"\nnode = \"eu-0\"\n", "");
    let problems = problems(&nameless);
    assert_eq!(problems.len(), 2, "{problems:?}");
    for (problem, begin) in problems.iter().zip(["1: field \"region\"", "1: field \"node\""]) {
        assert!(problem.starts_with(begin), "{problem}");
    }
}

#[test]
fn peers_can_dial_what_a_node_advertises() {
    let all = "listen = \"0.0.0.0:7946\"";
    assert!(
        problem(&cluster("listen", all))
            .contains("0.0.0.0:7946 is no address that a peer can dial")
    );
    let both = |advertise: &str| cluster("listen", &format!("{all}\nadvertise = \"{advertise}\""));
    let config = parse(&both("10.0.0.1:7946")).expect("right").cluster.expect("a cluster");
    assert_eq!(config.advertise, address("10.0.0.1:7946"));
    for bad in ["0.0.0.0:7946", "[::]:7946", "10.0.0.1:0"] {
        assert!(problem(&both(bad)).contains("cannot be dialled"), "{bad}");
    }
    assert!(problem(&cluster("listen", "listen = \"127.0.0.1:0\"")).contains("write a port"));
}

#[test]
fn gossip_has_a_range() {
    for (gossip, good) in
        [("10ms", true), ("10s", true), ("9ms", false), ("11s", false), ("fast", false)]
    {
        let text = cluster("gossip", &format!("gossip = \"{gossip}\""));
        assert_eq!(parse(&text).is_ok(), good, "{gossip}");
    }
}

#[test]
fn a_clock_error_has_a_range() {
    for (error, good) in
        [("10ms", true), ("1h", true), ("9ms", false), ("61m", false), ("500", false)]
    {
        let text = cluster("clock_error", &format!("clock_error = \"{error}\""));
        assert_eq!(parse(&text).is_ok(), good, "{error}");
    }
}

#[test]
fn a_fence_is_twice_as_long_as_clocks_may_be_off_where_regions_spend_by_rights() {
    let file = |fence: &str, regions: &str| {
        let (ids, table) = ("region = \"eu\"\nnode = \"eu-0\"\n", cluster("gossip", regions));
        let table = table.split_once("[cluster]").expect("it has one").1;
        let store = "[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:6379/0\"";
        format!("{ids}{store}\nfence = \"{fence}\"\n[cluster]{table}")
    };
    let both = "regions = { eu = 1, us = 1 }";
    assert!(parse(&file("1s", both)).is_ok());
    assert!(parse(&file("999ms", "")).is_ok(), "without regions nothing is spent by rights");
    let said = problem(&file("999ms", both));
    assert!(said.contains("store.fence") && said.contains("cluster.clock_error"), "{said}");
}

#[test]
fn a_silent_node_is_taken_for_dead_after_a_second_at_least_and_an_hour_at_most() {
    for (after, good) in [("1s", true), ("1h", true), ("999ms", false), ("61m", false)] {
        let text = cluster("reclaim_after", &format!("reclaim_after = \"{after}\""));
        assert_eq!(parse(&text).is_ok(), good, "{after}");
    }
}

#[test]
fn a_secret_is_read_from_beside_the_configuration() {
    for (file, wanted) in [("empty", "empty is empty"), ("absent", "absent cannot be read")] {
        let text = problem(&cluster("secret_file", &format!("secret_file = \"{file}\"")));
        assert!(
            text.starts_with("10: field \"cluster.secret_file\": ") && text.contains(wanted),
            "{text}"
        );
    }
}

#[test]
fn a_trusted_proxy_is_in_one_of_the_networks() {
    let text = "[identity]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1/128\"]";
    let identity = parse(text).expect("right").identity;
    for (proxy, trusted) in [("10.1.2.3", true), ("::1", true), ("::2", false), ("11.0.0.1", false)]
    {
        assert_eq!(identity.trusts(proxy.parse().expect(proxy)), trusted, "{proxy}");
    }
}

#[test]
fn seeds_may_be_names() {
    let text = cluster("seeds", "seeds = [\"eu.example.com:7946\", \"[::1]:7946\"]");
    let config = parse(&text).expect("is right");
    let seeds = config.cluster.expect("a cluster").seeds;
    assert_eq!(seeds[0], Seed::Name("eu.example.com:7946".into()));
    assert_eq!(seeds[1], Seed::Address(address("[::1]:7946")));
    for wrong in ["eu.example.com", "eu.example.com:0", "10.0.0.300:1", "a b:1", ":1"] {
        let text = cluster("seeds", &format!("seeds = [\"{wrong}\"]"));
        assert!(problem(&text).contains("cluster.seeds"), "{wrong}");
    }
}
