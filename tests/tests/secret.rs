//! A region without a cluster keeps its secret in Redis.

use std::{future::pending, path::Path, time::Duration};

use redis::aio::MultiplexedConnection;
use tidegate_node::{
    config::Config,
    server::{Options, Server},
};
use tidegate_tests::redis_server::RedisServer;

async fn secret_in(redis: &mut MultiplexedConnection) -> Option<Vec<u8>> {
    redis::cmd("GET").arg("tidegate:secret").query_async(redis).await.expect("answered")
}

/// Asks again and again until there is a secret.
async fn until_there_is_one(redis: &mut MultiplexedConnection) -> Vec<u8> {
    for _ in 0..1_000 {
        if let Some(secret) = secret_in(redis).await {
            return secret;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no secret in Redis");
}

#[tokio::test]
async fn a_wiped_redis_gets_the_secret_back_that_the_node_counts_under() {
    let redis = RedisServer::start().await.expect("redis-server");
    let mut connection = redis.connection().await.expect("connected");
    let text = format!(
        "[listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [store]\nkind = \"redis\"\nurl = \"{}\"\n",
        redis.url()
    );
    let config = Config::parse(&text, Path::new("")).expect("right");
    let server = Server::bind(config, Options::default()).await.expect("listening");
    let node = tokio::spawn(server.run(pending(), async || pending().await));

    let before = until_there_is_one(&mut connection).await;
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.expect("wiped");
    assert_eq!(until_there_is_one(&mut connection).await, before);
    node.abort();
}
