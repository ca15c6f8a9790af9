//! The interface on real sockets: who the peer is, large bodies, stopping.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::*;
use crate::api::Connections;

struct Server {
    address: std::net::SocketAddr,
    limiter: Arc<Fake>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

async fn start() -> Server {
    start_within(Connections::new(100)).await
}

async fn start_within(connections: Arc<Connections>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limiter = Arc::new(Fake::deciding(admitted()));
    let (stop, stopped) = oneshot::channel::<()>();
    let api = api(limiter.clone(), ResetStyle::default());
    let stopped = async move { stopped.await.unwrap() };
    let served = tokio::spawn(crate::api::serve(listener, api, connections, stopped));
    Server { address, limiter, stop, served }
}

/// Sends a request that asks for the connection to be closed; yields all that comes back.
async fn exchange(server: &Server, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head =
        format!("{head}\r\nHost: t\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn the_peer_is_the_other_end_of_the_connection() {
    let server = start().await;
    let reply = exchange(&server, "GET /v1/authorize/x HTTP/1.1", b"").await;
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    let (asked, _) = server.limiter.asked.lock().pop().unwrap();
    assert_eq!(asked.last().unwrap(), &("ip".to_owned(), "127.0.0.1".to_owned()));

    let head = "GET /v1/authorize/x HTTP/1.1\r\nX-Forwarded-For: 198.51.100.7";
    exchange(&server, head, b"").await;
    let (asked, _) = server.limiter.asked.lock().pop().unwrap();
    assert_eq!(asked.last().unwrap().1, "198.51.100.7", "loopback is trusted here");
}

#[tokio::test]
async fn who_sends_too_much_still_hears_why() {
    let server = start().await;
    let reply = exchange(&server, "POST /v1/check HTTP/1.1", &vec![b' '; 4 << 20]).await;
    assert!(reply.starts_with("HTTP/1.1 413 Payload Too Large\r\n"), "{reply}");
    assert!(reply.contains("application/problem+json"), "{reply}");
    assert_eq!(*server.limiter.asked.lock(), []);
}

#[tokio::test]
async fn the_longest_query_fits_into_a_head() {
    let server = start().await;
    let attribute = |n: usize| format!("{}{n:02}={}", "%6E".repeat(62), "%76".repeat(512));
    let query: Vec<_> = (0..32).map(attribute).collect();
    let reply = exchange(&server, &format!("GET /check?{} HTTP/1.1", query.join("&")), b"").await;
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    let (asked, _) = server.limiter.asked.lock().pop().unwrap();
    assert_eq!((asked.len(), asked[31].1.len()), (32, 512));
}

#[tokio::test]
async fn what_a_connection_in_http_2_may_hold_is_told_to_its_client() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    const INITIAL_WINDOW_SIZE: u16 = 4;
    const MAX_HEADER_LIST_SIZE: u16 = 6;
    let server = start().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    // The preface, and settings without any.
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "the first frame has the settings");
    let mut settings = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    client.read_exact(&mut settings).await.unwrap();
    let told: std::collections::BTreeMap<u16, u32> = settings
        .chunks_exact(6)
        .map(|s| (u16::from_be_bytes([s[0], s[1]]), u32::from_be_bytes([s[2], s[3], s[4], s[5]])))
        .collect();
    for (setting, value) in [
        (MAX_CONCURRENT_STREAMS, 100),
        (INITIAL_WINDOW_SIZE, 64 << 10),
        (MAX_HEADER_LIST_SIZE, 16 << 10),
    ] {
        assert_eq!(told.get(&setting), Some(&value), "{told:?}");
    }
}

#[tokio::test]
async fn serving_ends_when_told_although_a_connection_is_open() {
    let server = start().await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /check HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    server.stop.send(()).unwrap();
    server.served.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

/// Looked at so often that what takes long takes a moment.
const QUICK: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_head_that_never_ends_loses_its_place() {
    let connections = Connections::looked_at_every(QUICK, 1);
    let server = start_within(connections.clone()).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /check HTTP/1.1\r\nHost: t\r\nX-Slow: ").await.unwrap();
    let mut reply = Vec::new();
    assert_eq!(slow.read_to_end(&mut reply).await.unwrap(), 0, "closed without an answer");
    assert_eq!(connections.stats().stalled, 1);
    // The place is free for who asks.
    let reply = exchange(&server, "GET /check HTTP/1.1", b"").await;
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
}

/// One answer on a connection that stays open.
async fn one_answer(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    loop {
        let mut some = [0; 4_096];
        let n = stream.read(&mut some).await.unwrap();
        assert_ne!(n, 0, "cut off after {answer:?}");
        answer.push_str(std::str::from_utf8(&some[..n]).unwrap());
        if let Some((head, body)) = answer.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split_once("content-length: ").unwrap().1;
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if body.len() == length {
                return answer;
            }
        }
    }
}

#[tokio::test]
async fn who_says_nothing_or_trickles_after_an_answer_loses_its_place_too() {
    for trickle in [false, true] {
        let connections = Connections::looked_at_every(QUICK, 1);
        let server = start_within(connections.clone()).await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        for _ in 0..3 {
            idle.write_all(b"GET /check HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
            let answer = one_answer(&mut idle).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "a connection is kept: {answer}");
        }
        if trickle {
            idle.write_all(b"G").await.unwrap();
        }
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.unwrap();
        assert_eq!(connections.stats().stalled, u64::from(trickle));
    }
}

#[tokio::test]
async fn beyond_the_bound_a_connection_is_refused_and_told_so() {
    let connections = Connections::new(2);
    let server = start_within(connections.clone()).await;
    let mut held = Vec::new();
    for n in 1..=2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /check HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 15]).await.unwrap();
        assert_eq!(connections.stats().open, n);
        held.push(stream);
    }
    let mut further = TcpStream::connect(server.address).await.unwrap();
    let mut reply = String::new();
    further.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{reply}");
    assert!(reply.contains("application/problem+json") && reply.contains("too many"), "{reply}");
    assert_eq!(connections.stats().refused, 1);

    // Who has asked before it was accepted hears it too, and sees no reset. (Nothing is awaited between
    // connecting and asking, so that the node finds both.)
    let mut asking = std::net::TcpStream::connect(server.address).unwrap();
    std::io::Write::write_all(&mut asking, b"GET /check HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    asking.set_nonblocking(true).unwrap();
    let mut asking = TcpStream::from_std(asking).unwrap();
    let mut reply = String::new();
    asking.read_to_string(&mut reply).await.expect("no reset");
    assert!(reply.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{reply}");
    assert_eq!(connections.stats().refused, 2);

    // Who is in is served, and who leaves makes room.
    held[0]
        .write_all(b"GET /check HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut reply = String::new();
    held[0].read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains("HTTP/1.1 200 OK"), "{reply}");
    while connections.stats().open == 2 {
        tokio::task::yield_now().await;
    }
    let reply = exchange(&server, "GET /check HTTP/1.1", b"").await;
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
}

#[tokio::test]
async fn our_client_reads_what_we_answer() {
    let server = start().await;
    let client = tidegate_client::Client::new(&format!("http://{}", server.address)).unwrap();
    let answer = client.check(&[("api_key", "k")], 1).await.unwrap();
    assert!(answer.allowed);
    assert_eq!(answer.check.remaining, Some(4187));
    assert_eq!(answer.check.limits[0].consistency, None);
    let mistake = client.check(&[("api_key", "k")], 0).await.unwrap_err();
    let tidegate_client::Error::Refused(problem) = &mistake else { panic!("{mistake:?}") };
    assert_eq!((problem.status, &*problem.errors[0].field), (400, "cost"));
}
