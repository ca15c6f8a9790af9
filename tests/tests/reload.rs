//! The policy file is read again when asked: as a whole, or not at all.

use std::{fs, future::pending, path::Path, sync::Arc};

use tidegate_client::{Answer, Client};
use tidegate_node::{
    config::Config,
    server::{Options, Server},
};
use tokio::sync::{Mutex, mpsc};

fn policies(quantity: u64, scope: &str) -> String {
    format!(
        "[[policy]]\nname = \"p\"\nkey = [\"api_key\"]\n\
         [[policy.limit]]\nname = \"yearly\"\nquantity = {quantity}\nwindow = \"365d\"\nscope = \"{scope}\"\n"
    )
}

#[tokio::test]
async fn a_file_with_a_mistake_changes_nothing_and_a_right_one_everything_but_the_counts() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("policies.toml");
    fs::write(&file, policies(5, "region")).expect("writes");
    let text = format!(
        "policies = {:?}\n[listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n",
        file.display().to_string()
    );
    let config = Config::parse(&text, Path::new("")).expect("right");
    let server = Server::bind(config, Options::default()).await.expect("listening");
    let client = Client::new(&format!("http://{}", server.http_address().expect("bound")));
    let client = client.expect("a URL");
    // The node asks whether to reload once more only when it has done so: hence the second channel.
    let (asks, asked) = mpsc::channel::<()>(1);
    let (done, mut waits) = mpsc::channel::<()>(1);
    let asked = Arc::new(Mutex::new(asked));
    let reload =
        async move || done.send(()).await.is_ok() && asked.lock().await.recv().await.is_some();
    let node = tokio::spawn(server.run(pending(), reload));
    waits.recv().await.expect("the node runs");
    let check =
        async || -> Answer { client.check(&[("api_key", "k")], 2).await.expect("answered") };

    assert_eq!(check().await.check.remaining, Some(3));
    for (text, quantity, remaining) in [
        // The first limit is right, the second is not: none of both is taken.
        (format!("{}{}", policies(9, "region"), policies(9, "galaxy")), 5, 1),
        ("not TOML".into(), 5, 1),
        (policies(7, "region"), 7, 1),
    ] {
        fs::write(&file, &text).expect("writes");
        asks.send(()).await.expect("the node runs");
        waits.recv().await.expect("the node has read the file");
        let answer = check().await;
        assert_eq!(
            (answer.check.quantity, answer.check.remaining),
            (Some(quantity), Some(remaining))
        );
    }
    node.abort();
}
