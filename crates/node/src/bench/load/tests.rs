//! Loads on a server within the test.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use tokio::{net::TcpListener, task::LocalSet};

use super::*;
use crate::bench::Rate;

/// What a test server has seen, and how it answers.
#[derive(Default)]
struct Server {
    asked: AtomicU64,
    /// Every so many requests it refuses one.
    refuse_every: u64,
    /// The number of the request at which it stands still, and for how long.
    stall: Option<(u64, Duration)>,
}

#[expect(clippy::disallowed_methods, reason = "a server that stands still is what is tested")]
async fn answer(State(server): State<Arc<Server>>, _body: String) -> StatusCode {
    let number = server.asked.fetch_add(1, Ordering::Relaxed);
    if let Some((at, stall)) = server.stall
        && number == at
    {
        // On the only thread: nobody is answered meanwhile.
        std::thread::sleep(stall);
    }
    match server.refuse_every {
        0 => StatusCode::OK,
        every if number % every == every - 1 => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::OK,
    }
}

/// Serves on a thread of its own, for as long as the test process lives.
fn serve(server: Arc<Server>) -> Target {
    let (tell, told) = std::sync::mpsc::channel::<SocketAddr>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("bound")).expect("the test waits");
            let routes = Router::new().route("/v1/check", post(answer)).with_state(server);
            axum::serve(listener, routes).await.expect("serves");
        });
    });
    let address = told.recv().expect("the server binds");
    Target::parse(&format!("http://{address}")).expect("a plain URL")
}

fn run(targets: Vec<Target>, rate: Rate, millis: u64, connections: u32) -> Result<Report, String> {
    let requests = Arc::new(Requests::new(&[], Some(10)).expect("sound"));
    let schedule = Schedule::new(rate, Duration::from_millis(millis));
    let load = Load { targets, requests, schedule, connections };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), load.run())
}

#[test]
fn an_open_loop_sends_what_is_due_and_counts_the_answers() {
    let server = Arc::new(Server { refuse_every: 4, ..Server::default() });
    let target = serve(Arc::clone(&server));
    let report = run(vec![target], Rate::PerSecond(400.0), 500, 4096).expect("reachable");
    assert_eq!((report.offered, report.sent), (200, 200));
    assert_eq!((report.allowed, report.refused, report.errors), (150, 50, 0));
    assert_eq!(server.asked.load(Ordering::Relaxed), 200);
}

#[test]
fn several_targets_are_asked_in_turn() {
    let servers = [Arc::new(Server::default()), Arc::new(Server::default())];
    let targets = servers.iter().map(|server| serve(Arc::clone(server))).collect();
    let report = run(targets, Rate::PerSecond(200.0), 500, 4096).expect("reachable");
    assert_eq!(report.sent, 100);
    assert_eq!(servers.map(|server| server.asked.load(Ordering::Relaxed)), [50, 50]);
}

#[test]
fn a_stall_is_in_the_latency_of_all_that_was_due_meanwhile() {
    let stall = Duration::from_millis(300);
    let server = Arc::new(Server { stall: Some((100, stall)), ..Server::default() });
    let report = run(vec![serve(server)], Rate::PerSecond(500.0), 800, 4096).expect("reachable");
    assert_eq!((report.offered, report.errors), (400, 0));
    // Of 400 requests some 150 were due during the stall: a quarter of all waited 50 ms and more.
    let json = serde_json::to_value(report.summary()).expect("is JSON");
    let at = |name: &str| json["latency_us"][name].as_u64().expect("a number");
    assert!(at("p90") > 50_000, "{json}");
    assert!(at("max") > 250_000, "{json}");
}

#[test]
fn what_cannot_be_sent_in_time_is_offered_but_not_sent() {
    let stall = Duration::from_millis(400);
    let server = Arc::new(Server { stall: Some((10, stall)), ..Server::default() });
    // One connection, and it stands still until after the end.
    let report = run(vec![serve(server)], Rate::PerSecond(100.0), 300, 1).expect("reachable");
    assert_eq!(report.offered, 30);
    assert_eq!(report.sent, 11);
    assert_eq!(report.answered(), 11);
}

#[test]
fn a_closed_loop_offers_what_it_sends() {
    let server = Arc::new(Server::default());
    let report = run(vec![serve(Arc::clone(&server))], Rate::Max, 200, 3).expect("reachable");
    assert!(report.sent > 10, "{report:?}");
    assert_eq!(report.offered, report.sent);
    assert_eq!(report.answered(), report.sent);
    assert_eq!(server.asked.load(Ordering::Relaxed), report.sent);
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let target = Target::parse(&format!("http://{address}")).expect("a plain URL");
    let error = run(vec![target], Rate::Max, 100, 1).expect_err("nobody listens");
    assert!(error.contains(&address.to_string()), "{error}");
}
