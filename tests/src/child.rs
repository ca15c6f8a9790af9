//! A child process that ends with its test, and whose log is shown when the test fails.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::{
    process::{Child, ChildStdout, Command},
    time,
};

use crate::binary::tidegate;

/// A running `tidegate`.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `tidegate` with these arguments; standard error goes to `log`. `scratch` is where it and
    /// its children put their temporary files.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(name: &str, arguments: &[OsString], log: &Path, scratch: &Path) -> Self {
        Self::start_logging(name, arguments, log, scratch, None)
    }

    /// The same, with this filter of its log (`RUST_LOG`) instead of that of the test.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start_logging(
        name: &str,
        arguments: &[OsString],
        log: &Path,
        scratch: &Path,
        filter: Option<&str>,
    ) -> Self {
        let stderr =
            File::options().create(true).append(true).open(log).expect("a log can be made");
        // Even if this test is killed, the process ends with it.
        let child = Command::new(tidegate())
            .args(["exec-child", "--parent", &std::process::id().to_string(), "--"])
            .arg(tidegate())
            .args(arguments)
            .env("TMPDIR", scratch)
            .envs(filter.map(|filter| ("RUST_LOG", filter)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // A group of its own: ^C is for the test.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("the executable starts");
        Self { child, name: name.into(), log: log.into() }
    }

    /// Its standard output; can be had once.
    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("it is taken once")
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id().expect("it has not been waited for").cast_signed()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string())
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        signal(self.pid(), Signal::TERM);
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a child of ours can be killed");
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        match time::timeout(within, self.child.wait()).await {
            Ok(ended) => ended.expect("a child can be waited for"),
            Err(_) => panic!("{} did not end within {within:?}", self.name),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.log());
        }
    }
}

/// Kills any process as `kill -9` does.
///
/// # Panics
///
/// If there is no such process.
pub fn kill(pid: i32) {
    signal(pid, Signal::KILL);
}

/// Stops any process where it stands, until [`go_on`].
///
/// # Panics
///
/// If there is no such process.
pub fn stand_still(pid: i32) {
    signal(pid, Signal::STOP);
}

/// Lets a process go on that was told to stand still.
///
/// # Panics
///
/// If there is no such process.
pub fn go_on(pid: i32) {
    signal(pid, Signal::CONT);
}

/// Asks any process to read again what it reads.
///
/// # Panics
///
/// If there is no such process.
pub fn hang_up(pid: i32) {
    signal(pid, Signal::HUP);
}

fn signal(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("process ids are positive");
    kill_process(pid, signal).expect("the process runs");
}

/// Whether a process runs, or has ended without having been waited for.
pub fn runs(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}
