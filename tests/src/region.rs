//! One region of a cluster: its nodes, and the Redis behind them.

use std::time::Duration;

use redis::FromRedisValue;

use crate::{dev::Cluster, ensure, eventually, node::Node};

/// How long a frame from a node of the same region may take, on a machine that does a lot else.
const NOTICED: Duration = Duration::from_secs(10);

/// The nodes of one region.
pub fn of<'a>(cluster: &'a Cluster, region: &str) -> Vec<&'a Node> {
    cluster.nodes().filter(|node| node.region == region).collect()
}

/// Waits until each of these nodes knows what the others have admitted so far: a frame that arrives
/// may have been on its way already, the one after it has been made since.
///
/// # Panics
///
/// If that takes too long.
pub async fn heard_each_other(nodes: &[&Node]) {
    let pairs = nodes.iter().flat_map(|to| nodes.iter().map(move |from| (*to, *from)));
    for (to, from) in pairs.filter(|(to, from)| to.name != from.name) {
        let (region, node) = (&from.region, &from.name);
        let series = format!(
            r#"tidegate_peer_frames_total{{region="{region}",node="{node}",direction="received"}}"#
        );
        // Who has just been started may not have met everybody yet.
        let mut before = to.metric(&series).await.unwrap_or(0.0);
        eventually(NOTICED, &format!("{} hears {node}", to.name), async || {
            let now = to.metric(&series).await?;
            if now < before {
                // Another run of the node, whose frames are counted anew.
                before = 0.0;
            }
            ensure(now >= before + 2.0, || format!("{now} frames after {before}"))
        })
        .await;
    }
}

/// The process id of the Redis of a region.
///
/// # Errors
///
/// If it does not answer.
pub async fn redis_pid(cluster: &Cluster, region: &str) -> Result<i32, String> {
    let info: String = ask_redis(cluster, region, &["INFO", "server"]).await?;
    let pid = info.lines().find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok());
    pid.ok_or(info)
}

/// Asks the Redis of a region.
///
/// # Errors
///
/// What it, or the network, says.
///
/// # Panics
///
/// If the region has no Redis.
pub async fn ask_redis<T: FromRedisValue>(
    cluster: &Cluster,
    region: &str,
    words: &[&str],
) -> Result<T, String> {
    let url = &cluster.said_of(&format!("{region}-0")).store;
    let client = redis::Client::open(url.as_str()).expect("it is a URL");
    let answer = async {
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    };
    answer.await.map_err(|error| error.to_string())
}
