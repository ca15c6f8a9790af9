//! Port ranges that no two clusters share, whichever process they belong to.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    ops::Range,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below what systems hand out by themselves (from 32768 on Linux), and clear of the ports that
/// `tidegate dev` and the demo begin with.
const ALL: Range<u16> = 23_000..32_600;
/// Ports of one range: four nodes in each of ten regions, as `tidegate dev` lays them out.
const RANGE: u16 = 400;
/// The port of a range that says whose it is. No layout uses it: a region uses the first five of ten.
const CLAIM: u16 = 9;

/// A range of ports that belongs to whoever holds this.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    /// Others find this port taken, in this process and any other, until this one has ended.
    _claim: TcpListener,
}

impl Ports {
    /// Claims a range of which every port is free.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn claim() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let ranges = (ALL.end - ALL.start) / RANGE;
        // Processes begin at different places, so that they seldom meet.
        let first = u16::try_from(process::id() % u32::from(ranges)).expect("a small number");
        for _ in 0..ranges {
            let turn = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % ranges;
            let base = ALL.start + turn * RANGE;
            let Ok(claim) = TcpListener::bind((Ipv4Addr::LOCALHOST, base + CLAIM)) else {
                continue;
            };
            let mut others = (base..base + RANGE).filter(|port| *port != base + CLAIM);
            if others.all(is_free) {
                return Self { base, _claim: claim };
            }
        }
        panic!("no {RANGE} free ports within {ALL:?}");
    }

    /// The first port.
    pub const fn base(&self) -> u16 {
        self.base
    }

    /// The ports that are in use now, but for the one that stands for the claim.
    pub fn in_use(&self) -> Vec<u16> {
        let all = self.base..self.base + RANGE;
        all.filter(|port| *port != self.base + CLAIM && !is_free(*port)).collect()
    }
}

fn is_free(port: u16) -> bool {
    let at = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
}
