//! The command line as scripts see it: exit codes, and which stream says what.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

fn tidegate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
}

fn run(arguments: &[&str]) -> Output {
    tidegate().args(arguments).output().expect("the executable starts")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_is_a_result_and_a_mistake_is_not() {
    let help = run(&["--help"]);
    assert_eq!(code(&help), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("bench"));
    for wrong in [&[][..], &["frobnicate"], &["bench", "--rate", "fast"], &["check", "novalue"]] {
        let output = run(wrong);
        assert_eq!(code(&output), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn what_is_not_built_yet_is_refused() {
    let output = run(&["policy", "explain", "p.toml", "api_key=k"]);
    assert_eq!(code(&output), Some(2));
    assert!(stderr(&output).contains("policy explain"));
}

#[test]
fn a_node_that_is_not_there_is_exit_3() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let url = format!("http://{address}");
    let output = run(&["bench", "--url", &url, "--rate", "10", "--duration", "100ms"]);
    assert_eq!(code(&output), Some(3));
    assert!(stderr(&output).contains(&address));
    let output = run(&["check", "--url", &url, "api_key=k"]);
    assert_eq!(code(&output), Some(3));
    assert!(output.stdout.is_empty() && stderr(&output).contains(&address));
    assert_eq!(code(&run(&["check", "--url", "no-url", "api_key=k"])), Some(2));
}

#[test]
fn certificates_are_written_where_they_are_asked_for() {
    let home = tempfile::tempdir().expect("a directory");
    let path = |name: &str| home.path().join(name).display().to_string();
    let (ca, node) = (path("ca"), path("eu-0"));
    assert_eq!(code(&run(&["certs", "ca", "--out", &ca])), Some(0));
    let make = |name: &str| {
        run(&["certs", "node", "--ca", &ca, "--region", "eu", "--node", name, "--out", &node])
    };
    assert_eq!(code(&make("eu-0")), Some(0));
    for file in ["ca/ca.pem", "ca/ca.key", "eu-0/node.pem", "eu-0/node.key"] {
        let pem = fs::read_to_string(home.path().join(file)).expect("was written");
        assert!(pem.starts_with("-----BEGIN "), "{file}");
    }
    assert_eq!(code(&make("no/name")), Some(2));
    let again = run(&["certs", "ca", "--out", &ca]);
    assert_eq!(code(&again), Some(2), "an authority is not overwritten");
}

#[test]
fn a_policy_file_is_checked_line_by_line() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("policies.toml");
    let check = |text: &str| {
        fs::write(&file, text).expect("writes");
        run(&["policy", "check", &file.display().to_string()])
    };
    let sound = check(include_str!("../../../config/demo-policies.toml"));
    assert_eq!((code(&sound), &*sound.stdout), (Some(0), &b""[..]));
    assert_eq!(stderr(&sound), "");
    let small = "[[policy]]\nname = \"a\"\nkey = []\n[[policy.limit]]\nname = \"l\"\nquantity = 60\n\
                 window = \"1s\"\nalgorithm = \"fixed-window\"\nscope = \"global\"\nconsistency = \"strict\"\n";
    let warned = check(small);
    assert_eq!((code(&warned), &*warned.stdout), (Some(0), &b""[..]));
    let warnings = stderr(&warned);
    let all = warnings.lines().all(|line| line.contains("warning: ") && line.contains("strict"));
    assert!(warnings.lines().count() == 2 && all, "{warnings}");
    let wrong = check("[[policy]]\nname = \"a\"\nkey = 7\n");
    assert_eq!(code(&wrong), Some(2));
    let text = String::from_utf8_lossy(&wrong.stdout).into_owned();
    let begin = format!("{}:", file.display());
    assert!(
        text.lines().count() > 1 && text.lines().all(|line| line.starts_with(&begin)),
        "{text}"
    );
}

#[test]
fn dev_names_the_port_that_is_in_use() {
    let home = tempfile::tempdir().expect("a directory");
    let policies = home.path().join("policies.toml");
    fs::write(&policies, "").expect("writes");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    // The second region's HTTP port is ten above the base.
    let port = listener.local_addr().expect("bound").port();
    let (base, policies) = ((port - 10).to_string(), policies.display().to_string());
    let dev = ["dev", "--regions", "eu,us", "--base-port", &base, "--policies", &policies];
    let output = run(&dev);
    assert_eq!(code(&output), Some(2));
    assert!(output.stdout.is_empty());
    // Another port of the range may be taken by chance; then that one is named.
    assert!(stderr(&output).contains("in use; nothing was started"), "{}", stderr(&output));
}

#[test]
fn dev_refuses_missing_policies() {
    let output = run(&["dev", "--regions", "eu", "--policies", "/no/such/file"]);
    assert_eq!(code(&output), Some(2));
    assert!(stderr(&output).contains("/no/such/file"));
}

#[test]
fn dev_refuses_a_redis_url_that_is_none_before_it_starts_anything() {
    let home = tempfile::tempdir().expect("a directory");
    let policies = home.path().join("policies.toml");
    fs::write(&policies, "").expect("writes");
    let policies = policies.display().to_string();
    // One of the ports may be taken by chance; then others are tried.
    let said = (0..5).map(|_| {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let base = free.local_addr().expect("bound").port().min(65_000).to_string();
        drop(free);
        let dev = ["dev", "--regions", "eu", "--base-port", &base, "--policies", &policies];
        let output = run(&[&dev[..], &["--store", "redis", "--redis-url", "nonsense"]].concat());
        assert_eq!(code(&output), Some(2));
        stderr(&output)
    });
    let said = said.into_iter().find(|said| !said.contains("in use")).expect("free ports");
    assert!(said.contains("store.url") && !said.contains("started"), "{said}");
}

/// `tidegate serve` where a process may have so many open files.
fn serve_with_files(files: u32, config: &Path) -> Command {
    let mut command = Command::new("sh");
    let script =
        format!("ulimit -n {files} && exec \"$0\" serve --log-format json --config \"$1\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_tidegate")]).arg(config);
    command
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn fewer_open_files_than_connections_lower_their_number_and_are_told() {
    let home = tempfile::tempdir().expect("a directory");
    let config = home.path().join("node.toml");
    let text = "[listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nconnections_max = 100\n";
    fs::write(&config, text).expect("writes");
    // 64 for the process, 256 for operators, 2 × 64 for those who are turned away.
    let output = serve_with_files(448, &config).output().expect("a shell starts");
    assert_eq!(code(&output), Some(2));
    let said = stderr(&output);
    assert!(said.contains("may have 448 open files only, and a node needs 449"), "{said}");

    let node = serve_with_files(451, &config).stderr(Stdio::piped()).spawn();
    let mut node = Killed(node.expect("a shell starts"));
    let mut log = BufReader::new(node.0.stderr.take().expect("it was asked for")).lines();
    let mut told = false;
    let address = loop {
        let line = log.next().expect("it says that it has started").expect("reads");
        told |= line.contains("`listen.connections_max` is 100")
            && line.contains("it is 3 from now on");
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        if let Some(address) = line["http"].as_str() {
            break address.to_owned();
        }
    };
    assert!(told);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&address).expect("accepted");
        stream.write_all(b"GET /check HTTP/1.1\r\nHost: t\r\n\r\n").expect("written");
        let mut status = [0; 15];
        stream.read_exact(&mut status).expect("answered");
        assert_eq!(&status, b"HTTP/1.1 200 OK");
        open.push(stream);
    }
    let mut answer = String::new();
    let mut further = TcpStream::connect(&address).expect("accepted");
    further.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[test]
fn a_child_becomes_its_program() {
    let parent = std::process::id().to_string();
    let output =
        run(&["exec-child", "--parent", &parent, "--", "sh", "-c", "echo $0 $1", "a", "b"]);
    // The thread that forked is this test's, and lives on.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a b\n");
    assert_eq!(code(&output), Some(0));
}

#[test]
fn a_child_of_nobody_does_not_start() {
    // Process 1 is not the parent of this test's children.
    let output = run(&["exec-child", "--parent", "1", "--", "sh", "-c", "echo started"]);
    assert_eq!(code(&output), Some(1));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_child_dies_with_its_parent_even_by_sigkill() {
    let script = format!(
        "{} exec-child --parent $$ -- sh -c 'echo up; exec sleep 1000' & wait",
        env!("CARGO_BIN_EXE_tidegate")
    );
    let mut parent = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell starts");
    let mut stdout = BufReader::new(parent.stdout.take().expect("it was asked for"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("reads");
    assert_eq!(line, "up\n");
    parent.kill().expect("it runs");
    parent.wait().expect("it was killed");
    // The child holds the other end of the pipe: its end comes when the child has died.
    assert_eq!(stdout.read_to_string(&mut line).expect("reads"), 0);
}
