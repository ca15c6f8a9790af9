//! Whether this user may do all that a node does in Redis, and whether the server knows it: tried when a
//! node connects, since what Redis says of a script that may not do something does not say what.

use redis::{Cmd, RedisError, Value, aio::ConnectionLike};
use tidegate_core::store::CallerBucket;

use super::{Names, SCRIPT, StoreError, is_for_want_of_rights};

/// A command that shows whether a right is there, and changes nothing.
pub(super) struct Try {
    command: Cmd,
    right: &'static str,
    /// Whether it needs the right to the node's keys too.
    on_keys: bool,
    /// What the server is too old for if it does not understand the command.
    form: &'static str,
}

impl Try {
    fn new(right: &'static str, words: &[&str]) -> Self {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        Self { command, right, on_keys: false, form: "" }
    }

    fn on_keys(self) -> Self {
        Self { on_keys: true, ..self }
    }

    fn of_form(self, form: &'static str) -> Self {
        Self { form, ..self }
    }
}

impl Names {
    /// Selects the database, loads the script, and tries every right that a node needs, so that all that
    /// are missing are told at once.
    pub(super) async fn have_rights(
        &self,
        connection: &mut impl ConnectionLike,
        database: i64,
    ) -> Result<(), StoreError> {
        self.have_all(connection, database, self.tries(database, CallerBucket::ALL)).await
    }

    /// The same of a server in a cluster that has a bucket, if it has any: of others it says only whether the
    /// right is there.
    pub(super) async fn have_rights_in_cluster(
        &self,
        connection: &mut impl ConnectionLike,
        bucket: Option<CallerBucket>,
    ) -> Result<(), StoreError> {
        let mut tries = self.tries(0, bucket.unwrap_or(CallerBucket::ALL));
        tries.extend([
            Try::new("+cluster|nodes", &["CLUSTER", "NODES"]),
            Try::new("+cluster|info", &["CLUSTER", "INFO"]),
            Try::new("+asking", &["ASKING"]),
        ]);
        self.have_all(connection, 0, tries).await
    }

    async fn have_all(
        &self,
        connection: &mut impl ConnectionLike,
        database: i64,
        tries: Vec<Try>,
    ) -> Result<(), StoreError> {
        let mut missing = Vec::new();
        for Try { command, right, on_keys, form } in tries {
            let Err(error) = command.query_async::<Value>(connection).await else { continue };
            if is_for_want_of_rights(&error) {
                let keys = format!(" on keys ~{}:*", self.namespace());
                let right = format!("{right}{}", if on_keys { &keys } else { "" });
                if !missing.contains(&right) {
                    missing.push(right);
                }
            } else if error.is_io_error() {
                // Without a connection there is nothing more to ask.
                return Err(StoreError::from_redis(&error));
            } else if right == "+select" {
                return Err(StoreError::Refused(format!(
                    "database {database} of `store.url` cannot be selected: {error}"
                )));
            } else if !form.is_empty() && is_not_understood(&error) {
                return Err(StoreError::Refused(format!(
                    "the server of `store.url` does not know {form}: use Redis 6.2 or later"
                )));
            }
            // Other errors are not about rights: a script that is not there, a full server.
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "the user of `store.url` lacks the rights {}: give it these with ACL SETUSER",
            missing.join(", ")
        )))
    }

    /// One for each command, in each form in which the node or its script uses it.
    fn tries(&self, database: i64, bucket: CallerBucket) -> Vec<Try> {
        let marker = &*self.marker(bucket);
        // Keys that are never there: what sets only what is there changes nothing.
        let (record, beside) = (format!("{marker}:record"), format!("{marker}:right"));
        let mut tries = Vec::new();
        if database != 0 {
            tries.push(Try::new("+select", &["SELECT", &database.to_string()]));
        }
        tries.extend([
            Try::new("+script|load", &["SCRIPT", "LOAD", SCRIPT]),
            // A script that nobody has loaded.
            Try::new("+evalsha", &["EVALSHA", &"0".repeat(40), "0"]),
            Try::new("+time", &["TIME"]),
            Try::new("+info", &["INFO", "replication"]),
            Try::new("+info", &["INFO", "cluster"]),
            Try::new("+info", &["INFO", "memory"]),
            Try::new("+get", &["GET", marker]).on_keys(),
            Try::new("+get", &["GET", &record]).on_keys(),
            Try::new("+pttl", &["PTTL", &record]).on_keys(),
            Try::new("+set", &["SET", &beside, "", "XX"]).on_keys(),
            Try::new("+set", &["SET", &record, "", "XX", "PXAT", "1"])
                .on_keys()
                .of_form("`SET … PXAT`"),
            Try::new("+set", &["SET", &record, "", "XX", "KEEPTTL"])
                .on_keys()
                .of_form("`SET … KEEPTTL`"),
        ]);
        tries
    }
}

/// Whether the server did not understand what it was asked.
fn is_not_understood(error: &RedisError) -> bool {
    error.to_string().contains("syntax error")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redis::{Pipeline, RedisFuture};

    use super::*;
    use crate::store::{RedisSettings, RedisStore};

    /// Answers as Redis does, in bytes of its protocol, to the words of a command.
    struct Server<F>(F, Vec<Vec<String>>);

    impl<F: Fn(&[String]) -> &'static str + Send> ConnectionLike for Server<F> {
        fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
            let words = cmd.args_iter().map(|arg| match arg {
                redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                _ => panic!("no cursors here"),
            });
            let words: Vec<_> = words.collect();
            let answer = redis::parse_redis_value((self.0)(&words).as_bytes());
            self.1.push(words);
            Box::pin(async { answer })
        }

        fn req_packed_commands<'a>(
            &'a mut self,
            _: &'a Pipeline,
            _: usize,
            _: usize,
        ) -> RedisFuture<'a, Vec<Value>> {
            unreachable!("rights are tried one by one")
        }

        fn get_db(&self) -> i64 {
            0
        }
    }

    fn store() -> RedisStore {
        let url = "redis://gate:password@127.0.0.1:1/3".to_owned();
        let settings = RedisSettings {
            url,
            tls: None,
            timeout: Duration::from_millis(30),
            namespace: "test".into(),
        };
        assert!(!format!("{settings:?}").contains("password"));
        RedisStore::new(settings).expect("a URL")
    }

    async fn answered(
        database: i64,
        answers: impl Fn(&[String]) -> &'static str + Send,
    ) -> (Result<(), String>, Vec<Vec<String>>) {
        let mut server = Server(answers, Vec::new());
        let found = store().names.have_rights(&mut server, database).await;
        (found.map_err(|error| error.to_string()), server.1)
    }

    #[tokio::test]
    async fn whatever_the_script_calls_is_tried() {
        let (found, asked) = answered(3, |_| "+OK\r\n").await;
        assert_eq!(found, Ok(()));
        let calls = SCRIPT.split("redis.call(").chain(SCRIPT.split("redis.pcall("));
        let calls: Vec<_> = calls.filter(|call| call.starts_with('\'')).collect();
        assert!(calls.len() >= 6, "{calls:?}");
        for call in calls {
            let call = call.split(')').next().expect("a split has a first part");
            let words = call.split(',').map(str::trim).filter_map(|word| {
                word.strip_prefix('\'').and_then(|word| word.strip_suffix('\''))
            });
            let words: Vec<_> = words.collect();
            let holds = |tried: &Vec<String>| words.iter().all(|w| tried.iter().any(|t| t == w));
            assert!(asked.iter().any(holds), "{words:?} is not tried");
        }
        assert_eq!(asked[0], ["SELECT", "3"], "the others are tried in that database");
        let (_, asked) = answered(0, |_| "+OK\r\n").await;
        assert!(asked.iter().all(|words| words[0] != "SELECT"));
    }

    #[tokio::test]
    async fn an_old_server_is_told_by_what_it_does_not_know() {
        for form in ["PXAT", "KEEPTTL"] {
            let (found, _) = answered(0, |words| match words.iter().any(|word| word == form) {
                true => "-ERR syntax error\r\n",
                false => "$-1\r\n",
            })
            .await;
            let said = found.expect_err("it is refused");
            assert!(said.contains(form) && said.contains("Redis 6.2"), "{said}");
        }
    }

    #[tokio::test]
    async fn each_missing_right_is_told_once_and_other_errors_are_none() {
        let (found, _) = answered(3, |words| match &*words[0] {
            "SET" | "SELECT" => "-NOPERM this user has no permissions\r\n",
            "GET" => "-OOM command not allowed\r\n",
            _ => "-NOSCRIPT No matching script\r\n",
        })
        .await;
        let said = found.expect_err("it is refused");
        assert!(said.contains("lacks the rights +select, +set on keys ~test:*: "), "{said}");
        let (found, _) = answered(3, |words| match &*words[0] {
            "SELECT" => "-ERR DB index is out of range\r\n",
            _ => "+OK\r\n",
        })
        .await;
        let said = found.expect_err("it is refused");
        assert!(said.contains("database 3") && said.contains("out of range"), "{said}");
    }
}
