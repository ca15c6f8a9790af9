//! What fuzzers call: one function for each kind of bytes that strangers or people may send.
//!
//! A function panics if it finds what must not be; bad bytes alone are no reason. `fuzz/` makes a target of
//! each, and a test here runs them over the corpora, so that what was once found stays mended.

use std::sync::LazyLock;

use rand::{SeedableRng, rngs::StdRng};
use tidegate_core::{
    Hello,
    engine::{Engine, Settings},
    guard::OneThread,
    ids::{Boot, NodeId, Secret, Session},
    policy::PolicySet,
    time::{ClusterTime, Mono, Span},
};

use crate::{api, certs, config::Config, membership, store, transport};

/// A name, which is also that of its corpus, and what to do with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 10] = [
    ("frame", frame),
    ("hello", hello),
    ("gossip", gossip),
    ("certificate", certificate),
    ("check_body", check_body),
    ("batch_body", batch_body),
    ("query", query),
    ("policies", policies),
    ("config", config),
    ("store_reply", store_reply),
];

/// Some time at which the labels of the corpus are open.
const START: ClusterTime = ClusterTime(1_700_001_000_000_000);

fn session(region: &str, node: &str, boot: u64) -> Session {
    Session { id: NodeId::new(region, node).expect("good names"), boot: Boot(boot) }
}

/// A frame from a peer of another region and from a sibling, twice; then what the engine makes of it goes on.
pub fn frame(bytes: &[u8]) {
    let settings = Settings {
        shards: 2,
        cells_max: 1_000,
        strict_invariants: true,
        ..Settings::new(session("eu", "eu-0", 9))
    };
    let random = Box::new(StdRng::seed_from_u64(1));
    let engine: Engine<OneThread> = Engine::new(settings, Mono(0), START, random);
    let peers = [session("us", "us-0", 1), session("eu", "eu-1", 1)];
    let mut now = Mono(1);
    for peer in &peers {
        engine.handle_connected(now, peer).expect("a new peer is taken");
    }
    for _ in 0..2 {
        for peer in &peers {
            let _ = engine.handle_frame(now, peer, bytes);
            now += Span::millis(60);
            engine.handle_timeout(now);
            while let Some((_, frame)) = engine.poll_frame(now) {
                assert!(frame.len() <= tidegate_core::FRAME_BYTES_MAX);
            }
        }
    }
    let stats = engine.stats();
    assert!(stats.cells <= 1_000, "{stats:?}");
    assert!(stats.broken.is_empty(), "{stats:?}");
    assert!(engine.next_deadline(now) >= now);
    assert_eq!(
        engine.quarantined(now).len(),
        std::iter::from_fn(|| engine.poll_sentence()).count()
    );
}

/// A hello behind its length, as it comes on the stream.
pub fn hello(bytes: &[u8]) {
    if let Ok(hello) = transport::unpacked_hello(bytes) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
}

/// A message about members, as it comes from a peer.
pub fn gossip(bytes: &[u8]) {
    membership::fuzz_message(bytes);
}

/// A certificate, DER.
pub fn certificate(bytes: &[u8]) {
    let _ = certs::validity(bytes);
    if let Ok(id) = certs::identity(bytes) {
        assert!(NodeId::new(id.region.as_str(), id.node.as_str()).is_ok());
    }
}

/// The body of `POST /v1/check`.
pub fn check_body(bytes: &[u8]) {
    api::fuzz_check(bytes);
}

/// The body of `POST /v1/check/batch`.
pub fn batch_body(bytes: &[u8]) {
    api::fuzz_batch(bytes);
}

/// The query of `GET /check`.
pub fn query(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        api::fuzz_query(text);
    }
}

/// A policy file, and requests that meet its policies.
pub fn policies(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let policies = match PolicySet::parse(text) {
        Ok(policies) => policies,
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            assert!(mistakes.iter().all(|mistake| !mistake.to_string().is_empty()));
            return;
        }
    };
    let again = PolicySet::parse(text).expect("what was read once is read again");
    assert_eq!(policies.hash.to_string(), again.hash.to_string());
    let requests: [&[(&str, &str)]; 3] = [
        &[],
        &[("api_key", "k"), ("route", "/api/orders"), ("user", "u")],
        &[("route", "/a/**/*?\\/"), ("ip", "::1"), ("tenant", "t"), ("method", "GET")],
    ];
    for attributes in requests {
        for policy in policies.matching(attributes) {
            let caller = policy.caller(&Secret([1; 16]), attributes);
            assert_eq!(caller, policy.caller(&Secret([1; 16]), attributes));
        }
    }
}

/// A node's file. Paths in it lead into an empty directory, unless they are absolute.
pub fn config(bytes: &[u8]) {
    static EMPTY: LazyLock<tempfile::TempDir> =
        LazyLock::new(|| tempfile::tempdir().expect("a directory can be made"));
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Err(error) = Config::parse(text, EMPTY.path()) {
        assert!(!error.to_string().is_empty());
    }
}

/// What Redis answers to a step.
pub fn store_reply(bytes: &[u8]) {
    store::fuzz_reply(bytes);
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use super::*;

    #[test]
    fn every_corpus_is_read_without_a_panic() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, run) in TARGETS {
            let files = fs::read_dir(corpora.join(name)).unwrap();
            let files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
            assert!(files.len() >= 3, "{name} has only {files:?}");
            for file in files {
                // Shown if it panics.
                println!("{}", file.display());
                run(&fs::read(&file).unwrap());
            }
        }
    }

    #[test]
    fn every_target_has_a_program() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        for (name, _) in TARGETS {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name}");
        }
    }
}
