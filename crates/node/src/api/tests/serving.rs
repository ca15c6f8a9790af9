//! The interface on real sockets: who the peer is, large bodies, stopping.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::*;

struct Server {
    address: std::net::SocketAddr,
    limiter: Arc<Fake>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

async fn start() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limiter = Arc::new(Fake::deciding(admitted()));
    let (stop, stopped) = oneshot::channel::<()>();
    let api = api(limiter.clone(), ResetStyle::default());
    let stopped = async move { stopped.await.unwrap() };
    let served = tokio::spawn(crate::api::serve(listener, api, stopped));
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
