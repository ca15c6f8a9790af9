//! Tasks that others must hear the end of, also when it is a panic.

use std::future::Future;

use tokio::sync::watch;

/// A task that runs beside, and whose end can be waited for by many.
#[derive(Debug, Clone)]
pub(super) struct Watched(watch::Receiver<Option<String>>);

impl Watched {
    /// Starts a task. Must be called within a tokio runtime.
    pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        let (sender, end) = watch::channel(None);
        let running = tokio::spawn(task);
        tokio::spawn(async move {
            let why = match running.await {
                Ok(()) => "it ended".to_owned(),
                Err(broken) => broken.to_string(),
            };
            sender.send_replace(Some(why));
        });
        Self(end)
    }

    /// Waits for its end, and says how it came about.
    pub(super) async fn ended(&self) -> String {
        let mut end = self.0.clone();
        let why = end.wait_for(Option::is_some).await.ok().and_then(|why| (*why).clone());
        // Without a sender the runtime itself is going away.
        why.unwrap_or_else(|| "its runtime stopped".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_and_a_panic_are_told_to_all_who_wait() {
        let ended = Watched::spawn(async {});
        assert_eq!(ended.ended().await, "it ended");
        let broken = Watched::spawn(async { panic!("for the test") });
        let (one, other) = (broken.clone(), broken);
        assert!(one.ended().await.contains("for the test"));
        assert_eq!(one.ended().await, other.ended().await);
    }

    #[tokio::test]
    async fn a_task_that_runs_has_not_ended() {
        let (hold, held) = tokio::sync::oneshot::channel::<()>();
        let running = Watched::spawn(async {
            let _ = held.await;
        });
        assert!(futures_util::FutureExt::now_or_never(running.ended()).is_none());
        drop(hold);
        assert_eq!(running.ended().await, "it ended");
    }
}
