//! Redis by TLS: the server is known by an authority, the node by a certificate where the server asks for one, and
//! who is not known is not spoken to.

use std::{fs, net::TcpListener, path::Path, time::Duration};

use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use tidegate_node::certs;
use tidegate_tests::{
    ensure, eventually,
    redis_server::RedisServer,
    site::{Served, Site},
};

const SOON: Duration = Duration::from_secs(10);
const POLICIES: &str = r#"
[[policy]]
name = "all"
key = ["api_key"]
on_store_failure = "closed"
[[policy.limit]]
name = "quota"
quantity = 3
window = "400d"
"#;
const KEY: [(&str, &str); 1] = [("api_key", "k")];

/// A certificate and its key for this machine, in a folder, by an authority that is new or there.
fn make(folder: &Path, name: &str) {
    let (ca, ca_key) = (folder.join(certs::CA_CERT_FILE), folder.join(certs::CA_KEY_FILE));
    let read = |path: &Path| fs::read_to_string(path).expect("it is there");
    let signer = KeyPair::from_pem(&read(&ca_key)).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read(&ca), signer).expect("a pair");
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let write = |extension: &str, text: String| {
        fs::write(folder.join(format!("{name}.{extension}")), text).expect("a file");
    };
    write("pem", certificate.pem());
    write("key", key.serialize_pem());
}

/// A server that is spoken to by TLS only by who has a certificate of the authority in the folder; and its port.
async fn server(folder: &Path) -> (RedisServer, u16) {
    server_with(folder, &[]).await
}

/// The same, with further arguments.
async fn server_with(folder: &Path, more: &[&str]) -> (RedisServer, u16) {
    for name in ["server", "node"] {
        make(folder, name);
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr());
    let port = free().expect("a port").port();
    let (cert, key, ca) = (path("server.pem"), path("server.key"), path(certs::CA_CERT_FILE));
    let arguments = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "yes",
        "--bind",
        "127.0.0.1",
        "127.0.0.2",
    ];
    let arguments = [&arguments, more].concat();
    (RedisServer::start_with(&arguments).await.expect("redis-server with TLS"), port)
}

fn serve(site: &Site, name: &str, store: &str) -> Served {
    let place = site.place("eu", name);
    site.serve(&place, &site.config_alone(&place, &format!("kind = \"redis\"\n{store}")))
}

#[tokio::test]
async fn who_is_known_by_certificates_counts_in_redis() {
    let site = Site::new(POLICIES);
    let folder = site.authority("redis-ca");
    let (redis, port) = server(&folder).await;
    let of = |name: &str| folder.join(name).display().to_string();
    let (ca, cert, key) = (of(certs::CA_CERT_FILE), of("node.pem"), of("node.key"));
    let url = format!("url = \"rediss://127.0.0.1:{port}/0\"\n");
    let whole = format!("{url}ca = \"{ca}\"\ncert = \"{cert}\"\nkey = \"{key}\"\n");
    let served = serve(&site, "eu-0", &whole);
    served.node.ready(SOON).await;
    assert_eq!(served.node.spend(&KEY, 5).await, 3);
    let keys = redis.ask::<u64>(&["DBSIZE"]).await.expect("it answers in the clear too");
    assert!(keys >= 2, "{keys}: marker and record");

    // Without a certificate of its own, or without the server's authority, or where the server has another name, a
    // node stays alone, and says why.
    let stranger = site.authority("another-ca").join(certs::CA_CERT_FILE).display().to_string();
    let own = format!("cert = \"{cert}\"\nkey = \"{key}\"\n");
    let elsewhere = url.replace("127.0.0.1", "127.0.0.2");
    for (name, store, why) in [
        ("eu-1", format!("{url}ca = \"{ca}\"\n"), "CertificateRequired"),
        ("eu-2", format!("{url}ca = \"{stranger}\"\n{own}"), "invalid peer certificate"),
        ("eu-3", format!("{url}{own}"), "invalid peer certificate: UnknownIssuer"),
        ("eu-4", format!("{elsewhere}ca = \"{ca}\"\n{own}"), "certificate not valid for name"),
    ] {
        let served = serve(&site, name, &store);
        eventually(SOON, &format!("{name} says that it has no store"), async || {
            let log = served.process.log();
            ensure(log.contains("redis cannot be used") && log.contains(why), || log)?;
            let (status, body) = served.node.readyz().await?;
            ensure(status == 503 && body["store"] != "ok", || format!("{status} {body}"))?;
            let check = served.node.try_check(&KEY).await?;
            let reason = check.reason.as_deref();
            ensure(!check.allowed && reason == Some("store_unavailable"), || format!("{check:?}"))
        })
        .await;
        served.stop().await;
    }
    served.stop().await;
}

#[tokio::test]
async fn a_file_that_is_not_there_or_none_is_told_at_the_start() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let nowhere = "url = \"rediss://127.0.0.1:1/0\"\nca = \"nowhere.pem\"\n";
    let config = site.config_alone(&place, &format!("kind = \"redis\"\n{nowhere}"));
    let (code, said) = site.refused(&place, &config).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("store.ca") && said.contains("nowhere.pem"), "{said}");
    fs::write(site.home().join("text.pem"), "no certificate").expect("written");
    let text = nowhere.replace("nowhere.pem", "text.pem");
    let config = site.config_alone(&place, &format!("kind = \"redis\"\n{text}"));
    let (code, said) = site.refused(&place, &config).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("store"), "{said}");
}

/// Servers of a cluster that speak TLS among themselves name their ports of TLS to who speaks it.
#[tokio::test]
async fn servers_of_a_cluster_are_known_by_certificates_too() {
    let site = Site::new(POLICIES);
    let folder = site.authority("redis-ca");
    let bus = TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr());
    let bus = bus.expect("a port").port().to_string();
    let of_cluster = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", &bus];
    let (redis, port) = server_with(&folder, &of_cluster).await;
    redis.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await.expect("it takes slots");
    let of = |name: &str| folder.join(name).display().to_string();
    let (ca, cert, key) = (of(certs::CA_CERT_FILE), of("node.pem"), of("node.key"));
    let url = format!("url = \"rediss-cluster://127.0.0.1:{port}\"\n");
    let whole = format!("{url}ca = \"{ca}\"\ncert = \"{cert}\"\nkey = \"{key}\"\n");
    let served = serve(&site, "eu-0", &whole);
    served.node.ready(SOON).await;
    assert_eq!(served.node.spend(&KEY, 5).await, 3);
    served.stop().await;

    // Who has no certificate is not let in.
    let served = serve(&site, "eu-1", &format!("{url}ca = \"{ca}\"\n"));
    eventually(SOON, "the node is not let in", async || {
        let (status, body) = served.node.readyz().await?;
        ensure(status == 503 && body["store"] == "unreachable", || format!("{status} {body}"))
    })
    .await;
    assert!(!served.node.check(&KEY, 1).await.allowed);
    served.stop().await;
}
