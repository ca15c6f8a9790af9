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

/// A node of a cluster, with its files in this directory.
pub(super) async fn node(home: &Path) -> Server {
    certs::make_ca(&home.join("ca")).unwrap();
    let id = NodeId::new("eu", "eu-0").unwrap();
    certs::make_node(&home.join("ca"), &id, &home.join("eu-0")).unwrap();
    fs::write(home.join("secret"), "00112233445566778899aabbccddeeff").unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "region = \"eu\"\nnode = \"eu-0\"\n\
         [listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [cluster]\nlisten = \"127.0.0.1:{port}\"\nca = \"ca/ca.pem\"\n\
         cert = \"eu-0/node.pem\"\nkey = \"eu-0/node.key\"\nsecret_file = \"secret\"\n"
    );
    let config = Config::parse(&text, home).expect("right");
    Server::bind(config, Options::default()).await.expect("listening")
}

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
