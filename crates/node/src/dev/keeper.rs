//! Keeps one child process: starts it, waits for it, starts it again, stops it.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    net::SocketAddrV4,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{exec_child::ExecChild, ready};
use crate::cli::exit::{Exit, Failure};

/// How long a child may take to stop when it is asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// A child that lived so long did not die of its start.
const GOOD_LIFE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// What is shown of the log of a child that died.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 8 * 1024;

/// One child: what to start, and whom to tell that it is ready.
pub(super) struct Keeper {
    /// What people call it: `eu-0`, `Redis of eu`.
    pub(super) name: String,
    /// This very executable; it becomes `command`.
    pub(super) executable: PathBuf,
    pub(super) command: Vec<OsString>,
    /// Where its output is appended.
    pub(super) log: PathBuf,
    /// Whether it is started again when it dies.
    pub(super) restart: bool,
    /// Says that the cluster stops.
    pub(super) stop: CancellationToken,
}

/// When a child counts as ready, and what is done then.
pub(super) struct Readiness<F> {
    /// Where `/readyz` is asked.
    pub(super) admin: SocketAddrV4,
    /// Called with the process id, and how often the child has been started again.
    pub(super) announce: F,
}

impl Keeper {
    /// Keeps a child that nobody waits for.
    pub(super) async fn keep(self) -> Result<(), Failure> {
        self.keep_ready(None::<Readiness<fn(u32, u64)>>).await
    }

    /// Keeps a child until the cluster stops; an error if it dies and must not, or cannot, live again.
    pub(super) async fn keep_ready<F: Fn(u32, u64)>(
        self,
        readiness: Option<Readiness<F>>,
    ) -> Result<(), Failure> {
        let mut ever_ready = false;
        let mut pause = Pause::default();
        let mut restarts = 0;
        loop {
            let mut child = self.start()?;
            let born = Instant::now();
            let pid = child.id().expect("a child has an id until it was waited for");
            let announced = async {
                if let Some(readiness) = &readiness {
                    ready::wait(&self.name, readiness.admin).await;
                    (readiness.announce)(pid, restarts);
                    ever_ready = true;
                }
                std::future::pending::<()>().await;
            };
            let status = tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.end(child).await,
                status = child.wait() => status.map_err(|error| self.unwaitable(&error))?,
                () = announced => unreachable!("it waits for ever once it is ready"),
            };
            let fate = format!("{} died: {status}", self.name);
            if !ever_ready && status.code() == Some(Exit::Usage as i32) {
                // What it reads is wrong, or its address in use: another try ends the same way.
                return Err(Failure::usage(self.with_tail(&fate)));
            }
            if !self.restart {
                return Err(Failure::broken(self.with_tail(&fate)));
            }
            let wait = pause.after_life_of(born.elapsed());
            let fate = format!("{fate}; it is started again in {wait:?}");
            tracing::warn!("{}", self.with_tail(&fate));
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = sleep(wait) => restarts += 1,
            }
        }
    }

    fn start(&self) -> Result<Child, Failure> {
        let output = || OpenOptions::new().create(true).append(true).open(&self.log);
        let spawn = || {
            Command::new(&self.executable)
                .args(ExecChild::arguments(std::process::id(), self.command.clone()))
                .stdin(Stdio::null())
                .stdout(output()?)
                .stderr(output()?)
                // A group of its own: ^C is for `dev`, which then stops its children in good order.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
        };
        let child = spawn().map_err(|error: io::Error| {
            Failure::broken(format_args!("cannot start {}: {error}", self.name))
        })?;
        tracing::info!(name = self.name, pid = child.id(), log = %self.log.display(), "started");
        Ok(child)
    }

    /// Stops the child: kindly first.
    async fn end(&self, mut child: Child) -> Result<(), Failure> {
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()))
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::debug!(name = self.name, %error, "was gone already");
        }
        let ended: io::Result<ExitStatus> = match timeout(STOP_PATIENCE, child.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                let seconds = STOP_PATIENCE.as_secs();
                tracing::warn!("{} did not stop within {seconds} s; killed", self.name);
                child.start_kill().map_err(|error| self.unwaitable(&error))?;
                child.wait().await
            }
        };
        ended.map(drop).map_err(|error| self.unwaitable(&error))
    }

    fn unwaitable(&self, error: &io::Error) -> Failure {
        Failure::broken(format_args!("lost sight of {}: {error}", self.name))
    }

    fn with_tail(&self, fate: &str) -> String {
        let log = self.log.display();
        match tail(&self.log) {
            Ok(lines) if lines.is_empty() => format!("{fate}; it logged nothing ({log})"),
            Ok(lines) => format!("{fate}; the end of {log}:\n{lines}"),
            Err(error) => format!("{fate}; its log {log} cannot be read: {error}"),
        }
    }
}

/// The last lines of a log, indented.
fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    Ok(last.iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n"))
}

/// How long to wait before a child is started again: not at all, unless it keeps dying.
#[derive(Debug, Default)]
struct Pause {
    /// `None` while it has not died, or not of its start.
    last: Option<Duration>,
}

impl Pause {
    fn after_life_of(&mut self, life: Duration) -> Duration {
        let next = match self.last {
            Some(last) if life < GOOD_LIFE => (last * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
            _ => Duration::ZERO,
        };
        *self.last.insert(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A keeper of a shell that runs `script`, in a directory of its own.
    fn keeper(home: &Path, script: &str, restart: bool) -> Keeper {
        let executable = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/exec-child");
        let command = ["sh", "-c", script].map(OsString::from).into();
        let (log, stop) = (home.join("log"), CancellationToken::new());
        Keeper { name: "it".into(), executable, command, log, restart, stop }
    }

    #[tokio::test]
    async fn a_death_ends_it_and_shows_the_last_words() {
        let home = tempfile::tempdir().expect("a directory");
        let failure = keeper(home.path(), "echo last words; exit 7", false).keep().await;
        let failure = failure.expect_err("it died");
        assert_eq!(failure.exit, Exit::No);
        let text = failure.to_string();
        assert!(
            text.contains("it died: exit status: 7") && text.contains("| last words"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_wrong_configuration_is_told_as_such_whether_or_not_it_would_be_started_again() {
        for restart in [false, true] {
            let home = tempfile::tempdir().expect("a directory");
            let failure = keeper(home.path(), "exit 2", restart).keep().await;
            assert_eq!(failure.expect_err("it died").exit, Exit::Usage, "restart: {restart}");
        }
    }

    #[tokio::test]
    async fn it_is_started_again_until_it_says_that_its_configuration_is_wrong() {
        let home = tempfile::tempdir().expect("a directory");
        let script = "echo life; [ $(grep -c life \"$0\") -lt 3 ] && kill -9 $$; exit 2";
        let mut keeper = keeper(home.path(), script, true);
        keeper.command.push(keeper.log.clone().into());
        let failure = keeper.keep().await.expect_err("exit 2 is final before it was ever ready");
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.to_string().matches("| life").count(), 3);
    }

    #[tokio::test]
    async fn it_is_asked_to_stop_before_it_is_killed() {
        let home = tempfile::tempdir().expect("a directory");
        let script = "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.01; done";
        let keeper = keeper(home.path(), script, true);
        let (log, stop) = (keeper.log.clone(), keeper.stop.clone());
        let kept = tokio::spawn(keeper.keep());
        while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("up")) {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        kept.await.expect("no panic").expect("it was stopped");
        assert_eq!(std::fs::read_to_string(log).expect("reads"), "up\ntold\n");
    }

    #[test]
    fn who_keeps_dying_waits_longer_and_longer_up_to_a_bound() {
        let mut pause = Pause::default();
        let short = Duration::from_millis(5);
        assert_eq!(pause.after_life_of(short), Duration::ZERO);
        assert_eq!(pause.after_life_of(short), FIRST_PAUSE);
        assert_eq!(pause.after_life_of(short), FIRST_PAUSE * 2);
        for _ in 0..10 {
            pause.after_life_of(short);
        }
        assert_eq!(pause.after_life_of(short), LONGEST_PAUSE);
        assert_eq!(pause.after_life_of(GOOD_LIFE), Duration::ZERO);
    }

    #[test]
    fn a_tail_is_the_last_lines_of_a_long_log() {
        let home = tempfile::tempdir().expect("a directory");
        let log = home.path().join("log");
        let text: String = (0..5_000).map(|i| format!("line {i}\n")).collect();
        std::fs::write(&log, text).expect("writes");
        let shown = tail(&log).expect("reads");
        assert_eq!(shown.lines().count(), TAIL_LINES);
        assert_eq!(shown.lines().next_back(), Some("  | line 4999"));
    }
}
