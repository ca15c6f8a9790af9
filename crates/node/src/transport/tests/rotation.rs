//! Certificates that are replaced, revoked and expire while connections stand.

use super::*;
use crate::transport::TransportError;

/// What a node is given as its files: authorities, certificate, key.
struct Files {
    ca: String,
    cert: String,
    key: String,
}

fn files(region: &str, signer: &Authority, believed: &[&Authority]) -> Files {
    let made = signer.sign(&id(region)).unwrap();
    let ca = believed.iter().map(|authority| authority.cert_pem()).collect();
    Files { ca, cert: made.cert_pem, key: made.key_pem }
}

fn replace(node: &Node, files: &Files) -> Result<bool, TransportError> {
    let Files { ca, cert, key } = files;
    node.transport.replace_credentials(ca.as_bytes(), cert.as_bytes(), key.as_bytes())
}

pub(super) async fn until(what: impl Fn() -> bool) {
    let holds = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.expect("it comes about in time");
}

async fn pair(authority: &Authority) -> (Node, Node) {
    let mut eu = Node::start(config(authority, "eu", 1));
    let mut us = Node::start(config(authority, "us", 1));
    connect(&mut eu, &mut us).await;
    (eu, us)
}

#[tokio::test]
async fn an_authority_is_rotated_step_by_step_without_a_restart() {
    let (old, new) = (Authority::generate().unwrap(), Authority::generate().unwrap());
    let (mut eu, mut us) = pair(&old).await;
    let given = files("eu", &old, &[&old]);
    assert!(replace(&eu, &given).unwrap(), "another certificate of the same authority");
    assert!(!replace(&eu, &given).unwrap(), "the same once more");
    // Both are believed, then the new one signs: nothing of that ends a connection.
    for signer in [&old, &new] {
        replace(&eu, &files("eu", signer, &[&old, &new])).unwrap();
        replace(&us, &files("us", signer, &[&old, &new])).unwrap();
        eu.send(&us, "undisturbed").await;
        assert_eq!(us.next_frame().await, "undisturbed");
    }
    // Now the old one is taken out: what stood on it is made anew.
    replace(&eu, &files("eu", &new, &[&new])).unwrap();
    assert_eq!(eu.next().await, Event::Disconnected(us.session()));
    assert_eq!(eu.next().await, Event::Connected(us.session()));
    assert_eq!(us.next().await, Event::Disconnected(eu.session()));
    assert_eq!(us.next().await, Event::Connected(eu.session()));
    replace(&us, &files("us", &new, &[&new])).unwrap();
    us.send(&eu, "here").await;
    assert_eq!(eu.next_frame().await, "here");
}

#[tokio::test]
async fn whom_no_authority_vouches_for_any_more_is_closed_and_stays_out() {
    let (old, new) = (Authority::generate().unwrap(), Authority::generate().unwrap());
    let (mut eu, us) = pair(&old).await;
    replace(&eu, &files("eu", &new, &[&new])).unwrap();
    assert_eq!(eu.next().await, Event::Disconnected(us.session()));
    // The close is the first, what it tries afterwards are the others; and we do not believe it either.
    until(|| eu.refused("foreign_certificate") >= 2 && us.refused("foreign_certificate") >= 1)
        .await;
    assert!(eu.events.try_recv().is_err());
    assert_eq!(eu.transport.connections(), []);
}

#[tokio::test]
async fn an_expired_certificate_ends_its_connection() {
    let authority = Authority::generate().unwrap();
    let mut short = config(&authority, "us", 1);
    let made = authority.sign_for(&id("us"), time::Duration::seconds(3)).unwrap();
    (short.cert_pem, short.key_pem) = (made.cert_pem.into(), made.key_pem.into());
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(short);
    connect(&mut eu, &mut us).await;
    eu.keep(&[]);
    assert_eq!(eu.next().await, Event::Disconnected(us.session()));
    until(|| eu.refused("foreign_certificate") >= 2).await;
    assert!(eu.events.try_recv().is_err());

    // It is let in again with a new one.
    replace(&us, &files("us", &authority, &[&authority])).unwrap();
    assert_eq!(eu.next().await, Event::Connected(us.session()));
}

#[tokio::test]
async fn files_that_are_wrong_change_nothing() {
    let (ours, foreign) = (Authority::generate().unwrap(), Authority::generate().unwrap());
    let (eu, mut us) = pair(&ours).await;
    let before = eu.transport.validity();
    let good = || files("eu", &ours, &[&ours]);
    for (wrong, expected) in [
        (Files { key: files("eu", &ours, &[]).key, ..good() }, "is not the key"),
        (Files { ca: String::new(), ..good() }, "`cluster.ca`"),
        (files("us", &ours, &[&ours]), "is that of us/us-0"),
        (files("eu", &foreign, &[&ours]), "does not stand for"),
    ] {
        let error = replace(&eu, &wrong).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    }
    assert_eq!(eu.transport.validity(), before);
    eu.send(&us, "undisturbed").await;
    assert_eq!(us.next_frame().await, "undisturbed");
}
