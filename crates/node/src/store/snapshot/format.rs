//! The bytes of a snapshot: a header, records, and a checksum of all before it.
//!
//! Version 3, all numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `TGSNAP` and two line ends, which no transfer as text leaves as they are |
//! | 4 | version |
//! | 8 | epoch that the records are of |
//! | 1 | 0: the secret of the records is in the file; 1: it is configured, and a fingerprint of it is here |
//! | 16 | the secret, or the fingerprint |
//! | 69 each | 1, caller, limit, label, used, refunded, previous used, previous refunded, expires; then its meter: |
//! | 1 or 9 | 0: none; 1: a level, 2: a log; and its latest time, unless there is none |
//! | 16 | of a level: units, and units of a token |
//! | 4, and 16 each | of a log: how many entries; time and cost of each |
//! | 4, and 41 each | how many holds; of each its end, name, when it was made, label, amount; and 0: it is given back, 1: undone |
//! | 1 | 0: there is no further record |
//! | 16 | SipHash-2-4, 128 bits, of all before it |

use std::{
    hash::Hasher,
    io::{self, Read, Write},
};

use siphasher::sip128::{Hasher128, SipHasher24};
use tidegate_core::{
    algorithm::{Held, Level, Log, Meter},
    ids::{Caller, CallerHasher, Key, LimitId, Secret, StoreEpoch},
    store::{COUNT_MAX, Counts, HOLDS_MAX, Hold, HoldId, Holds, Lapse, Record},
    time::{Label, StoreTime},
};

const MAGIC: [u8; 8] = *b"TGSNAP\r\n";
const VERSION: u32 = 3;
const RECORD_BYTES: usize = 68;
const CHECKSUM_BYTES: usize = 16;
/// Entries of a log; no record has as many.
const ENTRIES_MAX: u32 = 1 << 20;

/// Under which secret the records of a node are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The node made it up, and nobody else knows it: the snapshot keeps it.
    Alone(Secret),
    /// It is in the configuration: the snapshot only recognizes it.
    Cluster(Secret),
}

/// What a snapshot begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) epoch: StoreEpoch,
    pub(super) secret: SecretNote,
}

/// What a snapshot says of the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecretNote {
    Own(Secret),
    Fingerprint([u8; 16]),
}

impl Owner {
    pub(super) fn note(self) -> SecretNote {
        match self {
            Self::Alone(secret) => SecretNote::Own(secret),
            Self::Cluster(secret) => {
                let fingerprint = CallerHasher::new(&secret).part("snapshot").finish();
                SecretNote::Fingerprint(fingerprint.to_bytes())
            }
        }
    }
}

/// Writes a snapshot, and its checksum at the end.
pub(super) struct Writer<W> {
    to: W,
    hash: SipHasher24,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W, header: &Header) -> io::Result<Self> {
        let mut writer = Self { to, hash: SipHasher24::new() };
        let (kind, secret) = match header.secret {
            SecretNote::Own(secret) => (0, secret.0),
            SecretNote::Fingerprint(fingerprint) => (1, fingerprint),
        };
        for part in
            [&MAGIC[..], &VERSION.to_le_bytes(), &header.epoch.0.to_le_bytes(), &[kind], &secret]
        {
            writer.write(part)?;
        }
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.write(bytes);
        self.to.write_all(bytes)
    }

    pub(super) fn record(&mut self, key: &Key, record: &Record) -> io::Result<()> {
        self.write(&[1])?;
        let mut bytes = [0; RECORD_BYTES];
        bytes[..16].copy_from_slice(&key.caller.to_bytes());
        bytes[16..20].copy_from_slice(&key.limit.0.to_le_bytes());
        // An account is worth nothing to the store that reads it: its epoch is another one.
        let Record { label, current, previous, expires, account: _, meter, holds } = record;
        let numbers =
            [label.0, current.used, current.refunded, previous.used, previous.refunded, expires.0];
        for (place, number) in bytes[20..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.write(&bytes)?;
        self.meter(meter.as_deref())?;
        self.holds(holds.as_ref().map_or(&[], |holds| holds.all()))
    }

    fn holds(&mut self, holds: &[Hold]) -> io::Result<()> {
        let count = u32::try_from(holds.len()).map_err(io::Error::other)?;
        self.write(&count.to_le_bytes())?;
        for Hold { ends, id, made, label, amount, lapse } in holds {
            for number in [ends.0, id.0, made.0, label.0, *amount] {
                self.number(number)?;
            }
            self.write(&[u8::from(*lapse == Lapse::Undone)])?;
        }
        Ok(())
    }

    fn meter(&mut self, meter: Option<&Meter>) -> io::Result<()> {
        let Some(Meter { at, held }) = meter else { return self.write(&[0]) };
        let kind = match held {
            Held::Level(_) => 1,
            Held::Log(_) => 2,
        };
        self.write(&[kind])?;
        self.number(at.0)?;
        match held {
            Held::Level(Level { units, unit }) => {
                self.number(*units)?;
                self.number(*unit)
            }
            Held::Log(log) => {
                let entries = log.entries();
                let count = u32::try_from(entries.len()).map_err(io::Error::other)?;
                self.write(&count.to_le_bytes())?;
                for (used, cost) in entries {
                    self.number(used.0)?;
                    self.number(*cost)?;
                }
                Ok(())
            }
        }
    }

    fn number(&mut self, number: u64) -> io::Result<()> {
        self.write(&number.to_le_bytes())
    }

    /// Ends the snapshot and gives back what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write(&[0])?;
        let checksum = checksum(&self.hash);
        self.to.write_all(&checksum)?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// Reads what a [`Writer`] wrote. Nothing that it gave counts before [`finish`](Self::finish) is happy.
pub(super) struct Reader<R> {
    from: R,
    hash: SipHasher24,
}

/// What is wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it is not a snapshot of Tidegate")]
    Foreign,
    #[error("it is of version {0}, and this is a node that reads version {VERSION}")]
    Version(u32),
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it was written under another secret")]
    AnotherSecret,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<R: Read> Reader<R> {
    pub(super) fn new(from: R) -> Result<(Self, Header), Unusable> {
        let mut reader = Self { from, hash: SipHasher24::new() };
        if reader.read::<8>()? != MAGIC {
            return Err(Unusable::Foreign);
        }
        let version = u32::from_le_bytes(reader.read()?);
        if version != VERSION {
            return Err(Unusable::Version(version));
        }
        let epoch = StoreEpoch(u64::from_le_bytes(reader.read()?));
        let [kind] = reader.read()?;
        let secret = reader.read()?;
        let secret = match kind {
            0 => SecretNote::Own(Secret(secret)),
            1 => SecretNote::Fingerprint(secret),
            _ => return Err(Unusable::Damaged("an unknown kind of secret")),
        };
        Ok((reader, Header { epoch, secret }))
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], Unusable> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.hash.write(&bytes);
        Ok(bytes)
    }

    /// The next record, if there is one more.
    pub(super) fn record(&mut self) -> Result<Option<(Key, Record)>, Unusable> {
        match self.read()? {
            [0] => return Ok(None),
            [1] => {}
            _ => return Err(Unusable::Damaged("there is something between its records")),
        }
        let bytes: [u8; RECORD_BYTES] = self.read()?;
        let array = |at: usize| -> [u8; 8] {
            bytes[at..at + 8].try_into().expect("a record has as many bytes")
        };
        let number = |n: usize| u64::from_le_bytes(array(20 + 8 * n));
        let mut caller = [0; 16];
        caller.copy_from_slice(&bytes[..16]);
        let limit = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
        let counts = |n: usize| {
            let counts = Counts { used: number(n), refunded: number(n + 1) };
            let sound = counts.refunded <= counts.used && counts.used <= COUNT_MAX;
            sound.then_some(counts).ok_or(Unusable::Damaged("a count that cannot be"))
        };
        let record = Record {
            label: Label(number(0)),
            current: counts(1)?,
            previous: counts(3)?,
            expires: StoreTime(number(5)),
            account: None,
            meter: self.meter()?.map(Box::new),
            holds: self.holds()?.map(Box::new),
        };
        Ok(Some((Key { caller: Caller::from_bytes(caller), limit: LimitId(limit) }, record)))
    }

    fn meter(&mut self) -> Result<Option<Meter>, Unusable> {
        let [kind] = self.read()?;
        if kind == 0 {
            return Ok(None);
        }
        let at = StoreTime(self.number()?);
        let held = match kind {
            1 => {
                let level = Level { units: self.number()?, unit: self.number()? };
                let sound = level.units <= COUNT_MAX && (1..=COUNT_MAX).contains(&level.unit);
                if !sound {
                    return Err(Unusable::Damaged("a level that cannot be"));
                }
                Held::Level(level)
            }
            2 => {
                let count = u32::from_le_bytes(self.read()?);
                if count > ENTRIES_MAX {
                    return Err(Unusable::Damaged("a log that cannot be"));
                }
                let mut entries = Vec::new();
                for _ in 0..count {
                    entries.push((StoreTime(self.number()?), self.number()?));
                }
                if !entries.is_sorted() {
                    return Err(Unusable::Damaged("a log out of order"));
                }
                Held::Log(Log::from_entries(entries))
            }
            _ => return Err(Unusable::Damaged("an unknown kind of meter")),
        };
        Ok(Some(Meter { at, held }))
    }

    fn holds(&mut self) -> Result<Option<Holds>, Unusable> {
        let count = u32::from_le_bytes(self.read()?) as usize;
        if count > HOLDS_MAX {
            return Err(Unusable::Damaged("more holds than can be"));
        }
        let mut holds = Vec::new();
        for _ in 0..count {
            let (ends, id) = (StoreTime(self.number()?), HoldId(self.number()?));
            let (made, label) = (StoreTime(self.number()?), Label(self.number()?));
            let amount = self.number()?;
            let lapse = match self.read()? {
                [0] => Lapse::GivenBack,
                [1] => Lapse::Undone,
                _ => return Err(Unusable::Damaged("an unknown kind of hold")),
            };
            holds.push(Hold { ends, id, made, label, amount, lapse });
        }
        let sound = holds.is_sorted() && holds.iter().all(|hold| hold.amount <= COUNT_MAX);
        if !sound {
            return Err(Unusable::Damaged("holds that cannot be"));
        }
        Ok((!holds.is_empty()).then(|| Holds::from_sorted(holds)))
    }

    fn number(&mut self) -> Result<u64, Unusable> {
        Ok(u64::from_le_bytes(self.read()?))
    }

    /// Whether everything was as it was written.
    pub(super) fn finish(mut self) -> Result<(), Unusable> {
        let expected = checksum(&self.hash);
        let mut found = [0; CHECKSUM_BYTES];
        self.from.read_exact(&mut found)?;
        let mut more = [0];
        if self.from.read(&mut more)? > 0 {
            return Err(Unusable::Damaged("there is something behind its end"));
        }
        if found != expected {
            return Err(Unusable::Damaged("its checksum is wrong"));
        }
        Ok(())
    }
}

fn checksum(hash: &SipHasher24) -> [u8; CHECKSUM_BYTES] {
    hash.finish128().as_bytes()
}
