//! Whole nodes in this process, and disks that do not answer.

use std::{
    fs::{self, File},
    future::pending,
    io::Write as _,
    net::UdpSocket,
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
    io::Errno,
};
use tidegate_client::Client;
use tidegate_core::ids::NodeId;
use tokio::{sync::mpsc, task};

use super::{Options, Server};
use crate::{api::Admin as _, certs, config::Config};

/// A node `eu-0` of a cluster, with its files in this directory.
pub(super) async fn node(home: &Path) -> Server {
    start(config(home, "eu", None, "")).await
}

pub(super) async fn start(config: Config) -> Server {
    Server::bind(config, Options::default()).await.expect("listening")
}

/// The configuration of the only node of a region, with more tables and whom it dials first. Each call
/// gives it other ports; the files in this directory are made once.
pub(super) fn config(home: &Path, region: &str, seed: Option<&Config>, more: &str) -> Config {
    let id = NodeId::new(region, &format!("{region}-0")).unwrap();
    let (ca, files) = (home.join("ca"), home.join(id.node.as_str()));
    if !ca.exists() {
        certs::make_ca(&ca).unwrap();
        fs::write(home.join("secret"), "00112233445566778899aabbccddeeff").unwrap();
    }
    if !files.exists() {
        certs::make_node(&ca, &id, &files).unwrap();
    }
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let seeds: Vec<_> =
        seed.iter().map(|seed| seed.cluster.as_ref().unwrap().listen.to_string()).collect();
    let text = format!(
        "region = \"{region}\"\nnode = \"{region}-0\"\npolicies = \"policies.toml\"\n\
         [listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [cluster]\nlisten = \"127.0.0.1:{port}\"\nca = \"ca/ca.pem\"\nseeds = {seeds:?}\n\
         cert = \"{region}-0/node.pem\"\nkey = \"{region}-0/node.key\"\nsecret_file = \"secret\"\n{more}"
    );
    fs::write(home.join("policies.toml"), POLICIES).unwrap();
    Config::parse(&text, home).expect("right")
}

const POLICIES: &str = r#"
[[policy]]
name = "all"
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 1000
window = "400d"
"#;

#[tokio::test]
async fn certificates_that_cannot_be_read_at_once_hold_nothing_up() {
    let home = tempfile::tempdir().unwrap();
    // All on one thread: whatever waits for the disk on it stops everything.
    let server = node(home.path()).await;
    let client = Client::new(&format!("http://{}", server.http_address().unwrap())).unwrap();
    let view = Arc::clone(&server.view);
    // A pipe is a file whose reader waits for its writer.
    let (certificate, good) = (home.path().join("eu-0/node.pem"), home.path().join("good"));
    fs::rename(&certificate, &good).unwrap();
    mknodat(CWD, &certificate, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let (asks, mut asked) = mpsc::channel::<()>(1);
    let running = tokio::spawn(server.run(pending(), async move || asked.recv().await.is_some()));
    asks.send(()).await.unwrap();
    let mut writer = loop {
        assert!(client.check(&[("api_key", "k")], 1).await.unwrap().allowed);
        // Opens as soon as somebody waits at the other end.
        match open(&certificate, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(pipe) => break File::from(pipe),
            Err(error) => assert_eq!(error, Errno::NXIO),
        }
    };
    fs::rename(&good, &certificate).unwrap();
    writer.write_all(b"no certificate").unwrap();
    drop(writer);
    while !view.render_metrics().contains("certificate_reload_total{result=\"rejected\"} 1") {
        task::yield_now().await;
    }
    running.abort();
}
