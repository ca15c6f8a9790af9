//! Clients who ask under names, and ask again until somebody answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use hyper::Method;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{http::Http, node::Node};

const CLIENTS: u64 = 64;
const REST: Duration = Duration::from_millis(20);

/// What clients have asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Under how many names; all were admitted.
    pub names: u64,
    /// How often in all.
    pub sent: u64,
}

/// 64 clients ask the same under one name after another, at all nodes in turn, until somebody answers; and under
/// every other name once more.
///
/// # Panics
///
/// If a name is refused for another reason than that the store does not answer.
pub async fn ask_by_names(nodes: &[Node], body: &Value, until: Instant) -> Asked {
    let (sent, names) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (nodes, body) = (nodes.to_vec(), body.to_string());
        let (sent, names) = (sent.clone(), names.clone());
        clients.spawn(async move {
            let mut turn = client as usize;
            for number in 0.. {
                if Instant::now() >= until {
                    break;
                }
                let name = format!("{client}-{number}");
                names.fetch_add(1, SeqCst);
                let mut answers = 0;
                while answers < 1 + number % 2 {
                    turn += 1;
                    let url = format!("http://{}/v1/check", nodes[turn % nodes.len()].http);
                    sent.fetch_add(1, SeqCst);
                    let key = [("Idempotency-Key", &*name)];
                    match Http::default().ask(Method::POST, &url, &key, body.clone()).await {
                        Ok(answer) if answer.status == 200 => answers += 1,
                        Ok(answer) if answer.json()["reason"] != "store_unavailable" => {
                            panic!("{name}: {}", answer.text())
                        }
                        // It died with the request, or has not started yet.
                        _ => sleep(REST).await,
                    }
                }
                sleep(REST).await;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("every name is admitted");
    }
    Asked { names: names.load(SeqCst), sent: sent.load(SeqCst) }
}
