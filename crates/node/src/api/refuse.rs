//! Turning a client away so that it hears why.
//!
//! A socket that is closed while bytes of its client are unread in it is reset, and a reset takes from the
//! client even the answer that it has got already. So who is turned away is listened to for a little while
//! after the answer, as far as bounds allow.

use std::{
    io::{self, Write as _},
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time,
};

/// How many clients of one listener are listened to after they were turned away. Further ones are closed
/// at once, and may see a reset instead of the answer.
pub(crate) const TURNED_AWAY_MAX: usize = 64;
/// For how long one is listened to.
const LISTEN_MAX: Duration = Duration::from_secs(2);
/// How much of what it says is heard, in bytes: a head, and a body as long as a check may have.
const BYTES_MAX: usize = 64 << 10;

/// What a client hears for whom there is no place.
static ANSWER: LazyLock<String> = LazyLock::new(|| {
    const BODY: &str = "{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
         \"detail\":\"too many connections are open already\",\"errors\":[]}";
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
});

/// Turns clients of one listener away.
#[derive(Debug)]
pub(super) struct Refusals {
    places: Arc<Semaphore>,
    listen_max: Duration,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self::listening_for(LISTEN_MAX)
    }

    fn listening_for(listen_max: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(TURNED_AWAY_MAX)), listen_max }
    }

    /// Says why, and closes; never waits.
    pub(super) fn refuse(&self, stream: TcpStream) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            // A fresh socket takes a short answer at once; if not, the client learns it from the end.
            let _ = stream.into_std().and_then(|mut stream| stream.write_all(ANSWER.as_bytes()));
            return;
        };
        let parting = time::timeout(self.listen_max, part(stream));
        tokio::spawn(async move {
            // How it went, only the client could tell.
            let _ = parting.await;
            drop(place);
        });
    }
}

/// Answers, and reads on until the client has closed too or has said too much.
async fn part(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(ANSWER.as_bytes()).await?;
    stream.shutdown().await?;
    let mut buffer = [0; 1_024];
    let mut heard = 0;
    while heard < BYTES_MAX {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => heard += n,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, task::yield_now};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Both ends of a connection: the client's, the node's.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    async fn until_all_left(refusals: &Refusals) {
        let left = async {
            while refusals.places.available_permits() < TURNED_AWAY_MAX {
                yield_now().await;
            }
        };
        time::timeout(PATIENCE, left).await.expect("all places are free in time");
    }

    #[tokio::test]
    async fn a_client_that_has_asked_reads_the_answer_and_an_orderly_end() {
        let refusals = Refusals::new();
        let (mut client, ours) = pair().await;
        // There before the answer, and nobody reads it.
        client.write_all(&[b'x'; 20_000]).await.unwrap();
        ours.readable().await.unwrap();
        refusals.refuse(ours);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("no reset");
        assert_eq!(answer, *ANSWER);
        drop(client);
        until_all_left(&refusals).await;
    }

    #[tokio::test]
    async fn a_client_that_stays_is_left_after_a_while() {
        let refusals = Refusals::listening_for(Duration::from_millis(50));
        let (mut client, ours) = pair().await;
        refusals.refuse(ours);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, *ANSWER);
        until_all_left(&refusals).await;
    }

    #[tokio::test]
    async fn a_client_that_does_not_stop_is_cut_off() {
        // Longer than the test may take: what ends it is the number of bytes.
        let refusals = Refusals::listening_for(10 * PATIENCE);
        let (mut client, ours) = pair().await;
        refusals.refuse(ours);
        let talk = async { while client.write_all(&[b'x'; 4_096]).await.is_ok() {} };
        time::timeout(PATIENCE, talk).await.expect("it is cut off");
        until_all_left(&refusals).await;
    }

    #[tokio::test]
    async fn beyond_the_bound_they_are_answered_and_not_listened_to() {
        let refusals = Refusals::listening_for(10 * PATIENCE);
        let mut stay = Vec::new();
        for _ in 0..TURNED_AWAY_MAX {
            let (client, ours) = pair().await;
            refusals.refuse(ours);
            stay.push(client);
        }
        assert_eq!(refusals.places.available_permits(), 0);
        let (mut further, ours) = pair().await;
        refusals.refuse(ours);
        let mut answer = String::new();
        further.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, *ANSWER);
        drop(stay);
        until_all_left(&refusals).await;
    }
}
