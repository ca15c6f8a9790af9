//! Making connections, both ways: dialling, accepting, and checking who is there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Connection, Incoming, RecvStream, SendStream};
use tidegate_core::{
    Hello,
    ids::{NodeId, Session},
};

use super::{
    Inner, credentials,
    gate::{Admission, Gate},
    hello,
    link::{self, Ends, Link},
    refusal::{CODE_GOODBYE, CODE_SUPERSEDED, Failure, Refusal},
};
use crate::certs;

/// How long a peer may take from the first datagram to the end of the hello.
const MEET_TIMEOUT: Duration = Duration::from_secs(3);

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept(inner: Arc<Inner>) {
    let gate = Gate::new();
    while let Some(incoming) = inner.endpoint.accept().await {
        let peer = incoming.remote_address();
        match gate.admit(peer.ip(), incoming.remote_address_validated()) {
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
                let detail = "too many peers are introducing themselves already";
                inner.fail(peer, &Failure::refused(Refusal::Limit, detail));
                incoming.ignore();
            }
        }
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
    // Once more: it may have been quarantined since it introduced itself.
    let may = || inner.quarantine.check(&link.session.id);
    match inner.registry.admit(&link, dialled, may) {
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
    inner.quarantine.check(id)?;
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
