//! Making connections, both ways: dialling, accepting, and checking who is there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Connection, Incoming, RecvStream, SendStream};
use tidegate_core::{
    Hello,
    ids::{NodeId, Session},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Inner, credentials, hello,
    link::{self, Ends, Link},
    refusal::{CODE_GOODBYE, CODE_SUPERSEDED, Failure, Refusal},
};
use crate::certs;

/// How long a peer may take from the first datagram to the end of the hello.
const MEET_TIMEOUT: Duration = Duration::from_secs(3);
/// How many peers may be introducing themselves at a time.
pub(super) const MEETINGS_MAX: usize = 256;
/// From how many on a peer must first prove that its address is its own.
const MEETINGS_UNPROVEN_MAX: usize = 64;

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept(inner: Arc<Inner>) {
    let gate = Gate::new();
    while let Some(incoming) = inner.endpoint.accept().await {
        let peer = incoming.remote_address();
        match gate.admit(incoming.remote_address_validated()) {
            Admission::Answer(place) => {
                let inner = inner.clone();
                tokio::spawn(async move {
                    if let Err(failure) = answer(&inner, incoming).await {
                        inner.fail(peer, &failure);
                    }
                    drop(place);
                });
            }
            // Fails only if the peer has proved its address already, which the gate excludes.
            Admission::Prove => drop(incoming.retry()),
            Admission::Ignore => {
                let detail = format!("{MEETINGS_MAX} peers are introducing themselves already");
                inner.fail(peer, &Failure::refused(Refusal::Limit, detail));
                incoming.ignore();
            }
        }
    }
}

/// Bounds how many peers introduce themselves at a time.
struct Gate {
    places: Arc<Semaphore>,
}

enum Admission {
    /// Answer it; the place is free again when this is dropped.
    Answer(OwnedSemaphorePermit),
    /// Let it prove first that its address is its own, which costs us no memory.
    Prove,
    /// Not even that; it will ask again.
    Ignore,
}

impl Gate {
    fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(MEETINGS_MAX)) }
    }

    fn admit(&self, proven: bool) -> Admission {
        let busy = MEETINGS_MAX - self.places.available_permits();
        if !proven && (MEETINGS_UNPROVEN_MAX..MEETINGS_MAX).contains(&busy) {
            return Admission::Prove;
        }
        self.places.clone().try_acquire_owned().map_or(Admission::Ignore, Admission::Answer)
    }
}

async fn answer(inner: &Arc<Inner>, incoming: Incoming) -> Result<(), Failure> {
    let mut started = None;
    let steps = async {
        let connection = incoming.accept()?.await?;
        let connection = &*started.insert(connection);
        let proven = proven_identity(inner, connection, &[])?;
        let (mut send, mut recv) = connection.accept_bi().await?;
        let theirs = hello::read_hello(&mut recv).await?;
        check(inner, &proven, &theirs)?;
        inner.registry.check(&theirs.session, connection.remote_address())?;
        hello::write_hello(&mut send, &inner.hello()).await?;
        hello::read_confirm(&mut recv).await?;
        Ok((theirs, (send, recv)))
    };
    let met = match tokio::time::timeout(MEET_TIMEOUT, steps).await {
        Ok(met) => met,
        Err(_) => Err(Failure::refused(Refusal::Timeout, "it did not introduce itself in time")),
    };
    conclude(inner, started, met, None)
}

/// Dials `address` and introduces this node there. Dropping the future gives the attempt up.
pub(super) async fn dial(inner: &Arc<Inner>, address: SocketAddr) -> Result<(), Failure> {
    let mut started = None;
    let steps = async {
        let connection = inner
            .endpoint
            .connect_with(inner.credentials.client(), address, certs::SERVER_NAME)
            .map_err(|e| Failure::Unreachable(e.to_string()))?
            .await?;
        let connection = &*started.insert(connection);
        let proven = proven_identity(inner, connection, &[address])?;
        let (mut send, mut recv) = connection.open_bi().await?;
        hello::write_hello(&mut send, &inner.hello()).await?;
        let theirs = hello::read_hello(&mut recv).await?;
        check(inner, &proven, &theirs)?;
        Ok((theirs, (send, recv)))
    };
    // Without an answer nobody is there, which is not a refusal.
    let met = match tokio::time::timeout(MEET_TIMEOUT, steps).await {
        Ok(met) => met,
        Err(_) => Err(Failure::Unreachable("no answer in time".into())),
    };
    conclude(inner, started, met, Some(address))
}

/// Lets a connection in, or closes it with the reason. There is no await in here: a connection that
/// was let in is always served.
fn conclude(
    inner: &Arc<Inner>,
    connection: Option<Connection>,
    met: Result<(Hello, (SendStream, RecvStream)), Failure>,
    dialled: Option<SocketAddr>,
) -> Result<(), Failure> {
    let Some(connection) = connection else { return met.map(|_| ()) };
    let result = met.and_then(|(theirs, hello)| {
        let (link, ends) = Link::new(
            theirs.session,
            theirs.advertise,
            connection.clone(),
            dialled.is_some(),
            hello,
        );
        let_in(inner, link, ends, dialled)
    });
    match &result {
        Err(Failure::Refused { reason, detail }) => {
            connection.close(reason.code().into(), detail.as_bytes());
        }
        Err(Failure::Duplicate) if dialled.is_some() => {
            connection.close(CODE_SUPERSEDED.into(), b"connected already");
        }
        Err(Failure::Rejected { .. } | Failure::Unreachable(_)) => {
            connection.close(CODE_GOODBYE.into(), b"");
        }
        Err(Failure::Duplicate) | Ok(()) => {}
    }
    result
}

fn let_in(
    inner: &Arc<Inner>,
    link: Arc<Link>,
    ends: Ends,
    dialled: Option<SocketAddr>,
) -> Result<(), Failure> {
    if let Some(faults) = &inner.faults {
        faults.learn(link.advertise, &link.session.id.region);
    }
    match inner.registry.admit(&link, dialled) {
        Ok(seat) => {
            tokio::spawn(link::serve(inner.clone(), link, ends, seat));
            Ok(())
        }
        Err(failure) => {
            if matches!(failure, Failure::Duplicate) && dialled.is_none() {
                tokio::spawn(link::close_late(link));
            }
            Err(failure)
        }
    }
}

/// Who the peer is by its certificate, which TLS has checked to be from our authority.
fn proven_identity(
    inner: &Inner,
    connection: &Connection,
    dialled: &[SocketAddr],
) -> Result<NodeId, Failure> {
    let chain = credentials::shown(connection);
    let Some(certificate) = chain.first() else {
        return Err(Failure::refused(Refusal::NoCertificate, "it showed no certificate"));
    };
    let proven = certs::identity(certificate)
        .map_err(|e| Failure::refused(Refusal::IdentityMismatch, e.to_string()))?;
    // From here on cuts and delays reach it, even if it is not let in.
    if let Some(faults) = &inner.faults {
        for address in dialled.iter().copied().chain([connection.remote_address()]) {
            faults.learn(address, &proven.region);
        }
    }
    Ok(proven)
}

/// Whether the peer is whom its certificate names, and not ourselves.
fn check(inner: &Inner, proven: &NodeId, theirs: &Hello) -> Result<(), Failure> {
    let Session { id, boot } = &theirs.session;
    if id != proven {
        let detail = format!("it says it is {id}, but its certificate is that of {proven}");
        return Err(Failure::refused(Refusal::IdentityMismatch, detail));
    }
    let own = &inner.session;
    if *id != own.id {
        Ok(())
    } else if *boot == own.boot {
        Err(Failure::refused(Refusal::Own, "this is our own address"))
    } else {
        let detail = format!("it says it is {id}, which is our own name");
        Err(Failure::refused(Refusal::DuplicateName, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_asks_for_proof_when_it_is_busy_and_closes_when_it_is_full() {
        let gate = Gate::new();
        let mut places = Vec::new();
        for n in 0..MEETINGS_MAX {
            if n >= MEETINGS_UNPROVEN_MAX {
                assert!(matches!(gate.admit(false), Admission::Prove));
            }
            let Admission::Answer(place) = gate.admit(n >= MEETINGS_UNPROVEN_MAX) else {
                panic!("no place for the {n}th")
            };
            places.push(place);
        }
        assert!(matches!(gate.admit(true), Admission::Ignore));
        assert!(matches!(gate.admit(false), Admission::Ignore));
        places.pop();
        assert!(matches!(gate.admit(true), Admission::Answer(_)));
    }
}
