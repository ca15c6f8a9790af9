//! Nodes started by hand, as `tidegate serve`, with certificates of `tidegate certs`.

use std::{
    cell::Cell,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use tempfile::TempDir;

use crate::{binary, child::Process, node::Node, ports::Ports};

/// How long a node may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory with an authority, a secret and policies, and ports for nodes.
#[derive(Debug)]
pub struct Site {
    home: TempDir,
    ports: Ports,
    next: Cell<u16>,
}

/// Where one node is to be: a name, ports, certificates.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its region.
    pub region: String,
    /// Its name.
    pub node: String,
    /// The port for checks.
    pub http: u16,
    /// The port for operators.
    pub admin: u16,
    /// The port for peers, UDP.
    pub cluster: u16,
    /// Where its `node.pem` and `node.key` are.
    pub certificate: PathBuf,
}

/// A node started by hand.
#[derive(Debug)]
pub struct Served {
    /// It, for questions.
    pub node: Node,
    /// Its process.
    pub process: Process,
}

impl Site {
    /// A site with a fresh authority and these policies.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    pub fn new(policies: &str) -> Self {
        let home = tempfile::tempdir().expect("a directory can be made");
        let site = Self { home, ports: Ports::claim(), next: Cell::new(0) };
        site.authority("ca");
        site.write("secret", "00112233445566778899aabbccddeeff\n");
        site.write("policies.toml", policies);
        site
    }

    /// Where its files are.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its ports.
    pub const fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Writes a file.
    ///
    /// # Panics
    ///
    /// If that is not possible.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home().join(name);
        fs::write(&path, text).expect("a file can be written");
        path
    }

    /// Makes a further authority, in a directory of this name.
    pub fn authority(&self, name: &str) -> PathBuf {
        let directory = self.home().join(name);
        done(&["certs", "ca", "--out"], &[&directory]);
        directory
    }

    /// A port that no other node of this site has.
    pub fn port(&self) -> u16 {
        let next = self.next.get();
        // Nine of each ten: the last may be the one by which the range is claimed.
        self.next.set(next + if next % 10 == 8 { 2 } else { 1 });
        self.ports.base() + next
    }

    /// A place for one node, with a certificate of this site's authority.
    pub fn place(&self, region: &str, node: &str) -> Place {
        self.place_under("ca", region, node)
    }

    /// A place for one node, with a certificate of the authority in the directory of this name.
    pub fn place_under(&self, authority: &str, region: &str, node: &str) -> Place {
        let certificate = self.home().join(format!("{authority}-{region}-{node}"));
        let ca = self.home().join(authority);
        let names = ["certs", "node", "--region", region, "--node", node];
        done(&names, &[Path::new("--ca"), &ca, Path::new("--out"), &certificate]);
        let (region, node) = (region.into(), node.into());
        let (http, admin, cluster) = (self.port(), self.port(), self.port());
        Place { region, node, http, admin, cluster, certificate }
    }

    /// The configuration of a node with the memory store.
    pub fn config(&self, place: &Place, seeds: &[&Place]) -> String {
        self.config_with(place, seeds, "kind = \"memory\"")
    }

    /// The configuration of a node with these settings of its store.
    pub fn config_with(&self, place: &Place, seeds: &[&Place], store: &str) -> String {
        let Place { region, node, http, admin, cluster, certificate } = place;
        let seeds: Vec<_> = seeds.iter().map(|s| format!("127.0.0.1:{}", s.cluster)).collect();
        let certificate = certificate.display();
        format!(
            r#"region = "{region}"
node = "{node}"
policies = "policies.toml"
[listen]
http = "127.0.0.1:{http}"
admin = "127.0.0.1:{admin}"
[store]
{store}
[cluster]
listen = "127.0.0.1:{cluster}"
seeds = {seeds:?}
ca = "ca/ca.pem"
cert = "{certificate}/node.pem"
key = "{certificate}/node.key"
secret_file = "secret"
"#
        )
    }

    /// The configuration of a node without peers, with these settings of its store.
    pub fn config_alone(&self, place: &Place, store: &str) -> String {
        let config = self.config_with(place, &[], store);
        config.split("[cluster]").next().expect("a split has a first part").into()
    }

    /// Starts a node with this configuration, and waits for nothing. Its faults are enabled.
    pub fn serve(&self, place: &Place, config: &str) -> Served {
        self.start(place, config, &["--enable-faults"], None)
    }

    /// Starts a node with this configuration, as one is started by those who want no faults.
    pub fn serve_plain(&self, place: &Place, config: &str) -> Served {
        self.start(place, config, &[], None)
    }

    /// Starts a node that logs all there is to log.
    pub fn serve_traced(&self, place: &Place, config: &str) -> Served {
        self.start(place, config, &["--enable-faults"], Some("trace"))
    }

    fn start(&self, place: &Place, config: &str, more: &[&str], filter: Option<&str>) -> Served {
        let file = self.write(&format!("{}-{}.toml", place.region, place.node), config);
        let mut arguments: Vec<OsString> = vec!["serve".into(), "--config".into(), file.into()];
        arguments.extend(more.iter().map(OsString::from));
        let log = self.home().join(format!("{}-{}.log", place.region, place.node));
        let process = Process::start_logging(&place.node, &arguments, &log, self.home(), filter);
        let at = |port: u16| format!("127.0.0.1:{port}");
        let (http, admin, cluster) = (at(place.http), at(place.admin), at(place.cluster));
        Served { node: Node::new(&place.region, &place.node, &http, &admin, &cluster), process }
    }

    /// Starts a node with this configuration, and waits until it is ready.
    pub async fn serve_ready(&self, place: &Place, config: &str) -> Served {
        let served = self.serve(place, config);
        served.node.ready(PATIENCE).await;
        served
    }

    /// Starts a node that must not start; its exit code and what it logged.
    pub async fn refused(&self, place: &Place, config: &str) -> (Option<i32>, String) {
        let mut served = self.serve(place, config);
        let status = served.ended().await;
        (status.code(), served.process.log())
    }
}

impl Served {
    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        self.process.ended(PATIENCE).await
    }

    /// Stops it by SIGTERM, and sees that it ends well.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn stop(mut self) {
        self.process.terminate();
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{status}: {}", self.process.log());
    }
}

/// Runs `tidegate`, which must succeed.
fn done(words: &[&str], paths: &[&Path]) {
    let words = words.iter().map(OsString::from);
    let paths = paths.iter().map(|path| OsString::from(*path));
    let output = binary::run(words.chain(paths));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
