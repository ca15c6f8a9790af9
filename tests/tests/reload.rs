//! The policy file is read again when asked: as a whole, or not at all, and without holding up the rest.

use std::{fs, future::pending, io::Write as _, os::unix::fs::symlink, path::Path, time::Duration};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
    io::Errno,
};
use tidegate_client::{Answer, Client};
use tidegate_node::{
    config::Config,
    server::{Options, Server},
};
use tidegate_tests::{child, ensure, eventually, http::Http, node::Node, site::Site};
use tokio::sync::mpsc;

fn policies(quantity: u64, scope: &str) -> String {
    format!(
        "[[policy]]\nname = \"p\"\nkey = [\"api_key\"]\n\
         [[policy.limit]]\nname = \"yearly\"\nquantity = {quantity}\nwindow = \"365d\"\nscope = \"{scope}\"\n"
    )
}

/// A listening node with the policies in `file`, and a client that asks it.
async fn node(file: &Path) -> (Server, Client) {
    let text = format!(
        "policies = {:?}\n[listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n",
        file.display().to_string()
    );
    let config = Config::parse(&text, Path::new("")).expect("right");
    let server = Server::bind(config, Options::default()).await.expect("listening");
    let client = Client::new(&format!("http://{}", server.http_address().expect("bound")));
    (server, client.expect("a URL"))
}

#[tokio::test]
async fn a_changed_file_is_read_by_itself_also_behind_the_links_of_a_mounted_config_map() {
    let home = tempfile::tempdir().expect("a directory");
    // As Kubernetes mounts a ConfigMap: the file is a link into a directory that is swapped as a whole.
    let version = |name: &str, quantity| {
        let directory = home.path().join(name);
        fs::create_dir(&directory).expect("made");
        fs::write(directory.join("policies.toml"), policies(quantity, "region")).expect("writes");
    };
    let point_to = |name: &str| {
        let fresh = home.path().join("..data_tmp");
        symlink(name, &fresh).expect("linked");
        fs::rename(fresh, home.path().join("..data")).expect("swapped");
    };
    version("v1", 5);
    point_to("v1");
    let file = home.path().join("policies.toml");
    symlink("..data/policies.toml", &file).expect("linked");
    let (server, client) = node(&file).await;
    let running = tokio::spawn(server.run(pending(), pending::<bool>));
    let quantity = async || {
        let answer = client.check(&[("api_key", "k")], 1).await.map_err(|e| e.to_string())?;
        answer.check.quantity.ok_or_else(|| "no limit".to_owned())
    };
    assert_eq!(quantity().await, Ok(5));
    version("v2", 50);
    point_to("v2");
    eventually(Duration::from_secs(10), "the new quantity holds", async || {
        ensure(quantity().await == Ok(50), || "still the old one".into())
    })
    .await;
    fs::write(home.path().join("v2/policies.toml"), policies(60, "region")).expect("writes");
    eventually(Duration::from_secs(10), "the newest quantity holds", async || {
        ensure(quantity().await == Ok(60), || "still the old one".into())
    })
    .await;
    running.abort();
}

#[tokio::test]
async fn a_file_with_a_mistake_changes_nothing_and_a_right_one_everything_but_the_counts() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("policies.toml");
    fs::write(&file, policies(5, "region")).expect("writes");
    let (server, client) = node(&file).await;
    let admin = format!("http://{}/metrics", server.admin_address().expect("bound"));
    let (asks, mut asked) = mpsc::channel::<()>(1);
    let node = tokio::spawn(server.run(pending(), async move || asked.recv().await.is_some()));
    let check =
        async || -> Answer { client.check(&[("api_key", "k")], 2).await.expect("answered") };
    let rejected = async || {
        let answer = Http::default().ask(hyper::Method::GET, &admin, &[], "").await;
        let metrics = answer.expect("answered").text().to_owned();
        let series = "tidegate_policy_reload_total{result=\"rejected\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(series));
        count.map_or(0, |count| count.parse::<u64>().expect("a number"))
    };

    assert_eq!(check().await.check.remaining, Some(3));
    let both = format!("{}{}", policies(9, "region"), policies(9, "galaxy"));
    // Of the first file one limit is right and one is not: none of both is taken.
    for text in [both.as_str(), "not TOML"] {
        let before = rejected().await;
        fs::write(&file, text).expect("writes");
        asks.send(()).await.expect("the node runs");
        eventually(Duration::from_secs(10), "the file is refused", async || {
            ensure(rejected().await > before, || "not read yet".into())
        })
        .await;
        let answer = client.check(&[("api_key", "k")], 4).await.expect("answered").check;
        assert_eq!((answer.quantity, answer.remaining), (Some(5), Some(3)), "{text}");
    }
    fs::write(&file, policies(7, "region")).expect("writes");
    asks.send(()).await.expect("the node runs");
    let answer = eventually(Duration::from_secs(10), "the new quantity holds", async || {
        let check = client.check(&[("api_key", "k")], 6).await.expect("answered").check;
        ensure(check.quantity == Some(7), || format!("{:?}", check.quantity))?;
        Ok(check)
    })
    .await;
    assert_eq!(answer.remaining, Some(5), "what was used is");
    assert_eq!(check().await.check.remaining, Some(3));
    node.abort();
}

#[tokio::test]
async fn a_disk_that_does_not_answer_holds_nothing_up_and_what_was_read_later_stays_in_force() {
    const SOON: Duration = Duration::from_secs(10);
    let home = tempfile::tempdir().expect("a directory");
    let point_to = |name: &str| {
        let fresh = home.path().join("fresh");
        symlink(name, &fresh).expect("linked");
        fs::rename(fresh, home.path().join("policies.toml")).expect("swapped");
    };
    fs::write(home.path().join("first"), policies(5, "region")).expect("writes");
    fs::write(home.path().join("last"), policies(70, "region")).expect("writes");
    // A pipe is a file whose reader waits for its writer.
    let slow = home.path().join("slow");
    mknodat(CWD, &slow, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    point_to("first");
    // All on one thread: whatever waits for the disk on it stops everything.
    let (server, client) = node(&home.path().join("policies.toml")).await;
    let admin = format!("http://{}/readyz", server.admin_address().expect("bound"));
    let (asks, mut asked) = mpsc::channel::<()>(1);
    let running = tokio::spawn(server.run(pending(), async move || asked.recv().await.is_some()));
    let quantity = async || client.check(&[("api_key", "k")], 1).await.map(|a| a.check.quantity);
    assert_eq!(quantity().await.expect("answered"), Some(5));

    point_to("slow");
    asks.send(()).await.expect("the node runs");
    let mut writer = loop {
        assert_eq!(quantity().await.expect("answered"), Some(5));
        let ready = Http::default().ask(hyper::Method::GET, &admin, &[], "").await;
        assert_eq!(ready.expect("answered").status, 200);
        // Opens as soon as somebody waits at the other end.
        match open(&slow, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(pipe) => break fs::File::from(pipe),
            Err(error) => assert_eq!(error, Errno::NXIO),
        }
    };
    // Asked while one is read: done afterwards.
    asks.send(()).await.expect("the node runs");
    // Newer ones are there before the older are read.
    point_to("last");
    writer.write_all(policies(60, "region").as_bytes()).expect("writes");
    drop(writer);
    eventually(SOON, "the newest quantity holds", async || {
        let now = quantity().await.expect("answered");
        ensure(now == Some(70), || format!("{now:?}"))
    })
    .await;
    for _ in 0..20 {
        assert_eq!(quantity().await.expect("answered"), Some(70));
    }
    running.abort();
}

/// Whether a node says that these have other policies in force, by name and hash, and nobody else; in
/// `/readyz`, where it is ready all the same, in `/v1/cluster` and by its gauge.
async fn says_that_these_differ(node: &Node, others: &[(&str, &str)]) -> Result<(), String> {
    let (status, ready) = node.readyz().await?;
    let reasons: Vec<_> = ready["reasons"].as_array().into_iter().flatten().collect();
    let names = |(name, hash): &(&str, &str)| {
        let told =
            |reason: &str| reason.starts_with(&format!("{name} has")) && reason.contains(hash);
        reasons.iter().any(|reason| reason.as_str().is_some_and(told))
    };
    let named = reasons.len() == others.len() && others.iter().all(names);
    ensure(status == 200 && named, || format!("{}: {status} {ready}", node.name))?;
    let cluster = node.cluster().await?;
    ensure(cluster["agree"] == others.is_empty(), || format!("{}: {cluster}", node.name))?;
    let gauge = node.metric("tidegate_policies_agree ").await?;
    ensure(gauge == f64::from(u8::from(others.is_empty())), || format!("{}: {gauge}", node.name))
}

#[tokio::test]
async fn nodes_with_other_policies_are_named_by_all_until_they_have_the_same() {
    const SOON: Duration = Duration::from_secs(20);
    let site = Site::new(&policies(5, "global"));
    site.write("other.toml", &policies(6, "global"));
    // One that differs has a sibling and a node of another region.
    let places = [("eu", "eu-0"), ("eu", "eu-1"), ("us", "us-0")].map(|(r, n)| site.place(r, n));
    let mut nodes = Vec::new();
    for place in &places {
        let config = site.config(place, &places.each_ref());
        let config = match &*place.node {
            "eu-1" => config.replace("policies.toml", "other.toml"),
            _ => config,
        };
        nodes.push(site.serve_ready(place, &config).await);
    }
    let mut hashes = Vec::new();
    for served in &nodes {
        let view = served.node.cluster().await.expect("answered");
        hashes.push(view["policy_hash"].as_str().expect("a hash").to_owned());
    }
    assert_eq!(hashes[0], hashes[2]);
    assert_ne!(hashes[0], hashes[1]);
    let odd: &[(&str, &str)] = &[("eu/eu-1", &hashes[1])];
    let even: &[(&str, &str)] = &[("eu/eu-0", &hashes[0]), ("us/us-0", &hashes[2])];
    for (served, others) in nodes.iter().zip([odd, even, odd]) {
        eventually(SOON, "who differs is named", async || {
            says_that_these_differ(&served.node, others).await
        })
        .await;
    }

    site.write("other.toml", &policies(5, "global"));
    child::hang_up(nodes[1].process.pid());
    for served in &nodes {
        eventually(SOON, "nobody differs any more", async || {
            says_that_these_differ(&served.node, &[]).await
        })
        .await;
        eventually(SOON, "its log says when it began and ended", async || {
            let log = served.process.log();
            let times = ["other policies in force than this one", "same policies in force again"]
                .map(|line| log.matches(line).count());
            // A busy machine may hold a node for dead in between.
            ensure(times[0] > 0 && times[0] == times[1], || format!("{times:?} in\n{log}"))
        })
        .await;
    }
    for served in nodes {
        served.stop().await;
    }
}
