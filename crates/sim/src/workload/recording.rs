//! Recorded traffic: a CSV file of requests, and its replay.
//!
//! The first line names the columns, in any order: `time` (seconds since the load began, such as 0.0153;
//! never falling) and `region`, and if there are several callers and costs, `caller` (or `key`) and `cost`.
//! Fields are separated by commas, and there are no quotes, so no field holds a comma. Empty lines and
//! lines that begin with `#` say nothing. All of it is held in memory, within bounds.

use std::{collections::BTreeMap, sync::Arc};

use super::{Arrival, COST_MAX};
use crate::scenario::Load;

/// A file may be so long, in bytes …
pub const BYTES_MAX: u64 = 64 << 20;
/// … and hold so many requests.
const REQUESTS_MAX: usize = 1_000_000;
/// A caller's name may be so long, in bytes: a server takes no longer value either.
const CALLER_BYTES_MAX: usize = 512;
/// So many mistakes are told, the first ones.
const TOLD_MAX: usize = 5;
/// The latest time of a request, in microseconds: 400 days.
const TIME_MAX: u64 = 400 * 86_400 * 1_000_000;

/// One recorded request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Microseconds since the load began.
    pub at: u64,
    /// Its region's place.
    pub region: u32,
    /// Its caller's place in [`Recording::callers`]; 0 without callers.
    pub caller: u32,
    /// What it costs.
    pub cost: u64,
}

/// A recorded load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recording {
    /// In the order of their times.
    pub requests: Vec<Recorded>,
    /// Names of all callers, in the order of their first requests; empty if the file has no such column.
    pub callers: Vec<String>,
}

/// What is wrong with a recording, one line for each of the first mistakes, each with the file's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingError(pub Vec<String>);

/// Where the fields of a line are.
struct Columns {
    time: usize,
    region: usize,
    caller: Option<usize>,
    cost: Option<usize>,
    count: usize,
}

impl Columns {
    fn read(line: &str) -> Result<Self, String> {
        let wanted = "the first line names the columns, such as time,region,caller,cost";
        let names: Vec<&str> = line.split(',').map(str::trim).collect();
        let mut found: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            let name = match *name {
                "key" => "caller",
                known @ ("time" | "region" | "caller" | "cost") => known,
                other => return Err(format!("no column is called `{other}`: {wanted}")),
            };
            if found.insert(name, at).is_some() {
                return Err(format!("`{name}` stands twice: {wanted}"));
            }
        }
        let column = |name: &str| {
            found.get(name).copied().ok_or_else(|| format!("there is no `{name}`: {wanted}"))
        };
        let (time, region) = (column("time")?, column("region")?);
        let (caller, cost) = (found.get("caller").copied(), found.get("cost").copied());
        Ok(Self { time, region, caller, cost, count: names.len() })
    }
}

/// Takes lines in.
struct Reader<'a> {
    regions: &'a [&'a str],
    recording: Recording,
    callers: BTreeMap<String, u32>,
}

impl Reader<'_> {
    fn take(&mut self, columns: &Columns, line: &str) -> Result<(), String> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if fields.len() != columns.count {
            let (n, wanted) = (fields.len(), columns.count);
            return Err(format!("{n} fields; the first line names {wanted}"));
        }
        if let Some(quoted) = fields.iter().find(|field| field.contains('"')) {
            return Err(format!("{quoted}: quotes are not understood; write the bare value"));
        }
        let at = microseconds(fields[columns.time])?;
        if let Some(last) = self.recording.requests.last().filter(|last| last.at > at) {
            let last = last.at as f64 / 1e6;
            return Err(format!("time {} is before {last}, of a line above", fields[columns.time]));
        }
        let name = fields[columns.region];
        let region = self.regions.iter().position(|region| *region == name);
        let region = region.ok_or_else(|| {
            format!("no region is called `{name}`; there are {}", self.regions.join(", "))
        })?;
        let caller = columns.caller.map_or(Ok(0), |at| self.caller(fields[at]))?;
        let cost = columns.cost.map_or(Ok(1), |at| cost(fields[at]))?;
        if self.recording.requests.len() == REQUESTS_MAX {
            return Err(format!("more than {REQUESTS_MAX} requests; no more are held"));
        }
        self.recording.requests.push(Recorded { at, region: region as u32, caller, cost });
        Ok(())
    }

    fn caller(&mut self, name: &str) -> Result<u32, String> {
        if let Some(place) = self.callers.get(name) {
            return Ok(*place);
        }
        if name.is_empty() || name.len() > CALLER_BYTES_MAX {
            let length = name.len();
            return Err(format!("a caller of {length} bytes; must be 1 to {CALLER_BYTES_MAX}"));
        }
        let place = self.recording.callers.len() as u32;
        self.recording.callers.push(name.to_owned());
        self.callers.insert(name.to_owned(), place);
        Ok(place)
    }
}

fn microseconds(field: &str) -> Result<u64, String> {
    let wrong = || format!("time `{field}`; write seconds since the load began, such as 12.0153");
    let seconds: f64 = field.parse().map_err(|_| wrong())?;
    let micros = libm::round(seconds * 1e6);
    if (0.0..=TIME_MAX as f64).contains(&micros) { Ok(micros as u64) } else { Err(wrong()) }
}

fn cost(field: &str) -> Result<u64, String> {
    let cost = field.parse().ok().filter(|cost| (1..=COST_MAX).contains(cost));
    cost.ok_or_else(|| format!("cost `{field}`; must be 1 to {COST_MAX}"))
}

impl Recording {
    /// Reads a recording from text. `regions` are the names of the scenario's regions.
    pub fn parse(text: &str, regions: &[&str]) -> Result<Self, RecordingError> {
        let says = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let mut lines =
            text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, l)| says(l));
        let (n, head) = lines.next().unwrap_or((1, ""));
        let columns =
            Columns::read(head).map_err(|why| RecordingError(vec![format!("line {n}: {why}")]))?;
        let mut reader = Reader { regions, recording: Self::default(), callers: BTreeMap::new() };
        let mut mistakes = Vec::new();
        for (n, line) in lines {
            if let Err(why) = reader.take(&columns, line) {
                mistakes.push(format!("line {n}: {why}"));
                if mistakes.len() == TOLD_MAX {
                    break;
                }
            }
        }
        if mistakes.is_empty() && reader.recording.requests.is_empty() {
            mistakes.push("there is no request in it".to_owned());
        }
        if mistakes.is_empty() { Ok(reader.recording) } else { Err(RecordingError(mistakes)) }
    }

    /// Requests per second, from the beginning of the load to the last of them.
    pub fn per_second(&self) -> f64 {
        let last = self.requests.last().map_or(0, |last| last.at);
        self.requests.len() as f64 * 1e6 / last.max(1) as f64
    }

    /// What a request costs on average.
    pub fn mean_cost(&self) -> f64 {
        let sum: u64 = self.requests.iter().map(|request| request.cost).sum();
        sum as f64 / self.requests.len().max(1) as f64
    }
}

/// A recording, request by request.
#[derive(Debug)]
pub struct Replay {
    recording: Arc<Recording>,
    first_subject: usize,
    start: u64,
    end: u64,
    /// The requests whose times were told.
    told: usize,
}

impl Replay {
    /// The requests of a load from its `start` to its `end`; times are shifted by the start.
    pub(super) fn new(recording: Arc<Recording>, first_subject: usize, load: &Load) -> Self {
        let end = load.end.map_or(u64::MAX, |end| end.0);
        Self { recording, first_subject, start: load.start.0, end, told: 0 }
    }

    pub(super) fn next(&mut self) -> Option<u64> {
        let request = self.recording.requests.get(self.told)?;
        let at = self.start + request.at;
        if at >= self.end {
            return None;
        }
        self.told += 1;
        Some(at)
    }

    pub(super) fn arrival(&mut self) -> Arrival {
        let request = self.recording.requests[self.told.saturating_sub(1)];
        Arrival {
            region: request.region as usize,
            subject: self.first_subject + request.caller as usize,
            cost: request.cost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGIONS: [&str; 2] = ["eu", "us"];

    fn parse(text: &str) -> Result<Recording, Vec<String>> {
        Recording::parse(text, &REGIONS).map_err(|error| error.0)
    }

    #[test]
    fn columns_stand_in_any_order_and_some_may_be_left_out() {
        let all =
            "cost,region,time,key\n# a note\n\n3,us,0.25,b\n1, eu ,1.000001,a\n2,eu,1.000001,b\n";
        let recording = parse(all).expect("good");
        assert_eq!(recording.callers, ["b", "a"]);
        let of = |at, region, caller, cost| Recorded { at, region, caller, cost };
        let expected = [of(250_000, 1, 0, 3), of(1_000_001, 0, 1, 1), of(1_000_001, 0, 0, 2)];
        assert_eq!(recording.requests, expected);
        assert!((recording.mean_cost() - 2.0).abs() < 1e-9);
        assert!((recording.per_second() - 3.0).abs() < 1e-4);

        let bare = parse("time,region\n0,eu\n").expect("good");
        assert_eq!((bare.requests[0], bare.callers.len()), (of(0, 0, 0, 1), 0));
    }

    #[test]
    fn mistakes_are_told_with_their_lines() {
        let bad = "time,region,caller,cost\n1,eu,a,1\n\n0.5,eu,a,1\n2,mars,a,1\nsoon,eu,a,1\n2,eu,a,0\n2,eu\n2,eu,,1\n";
        let said = parse(bad).expect_err("bad");
        let expected = ["line 4: time 0.5", "line 5: no region", "line 6: time `soon`"];
        for (line, expected) in said.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}");
        }
        assert_eq!(said.len(), TOLD_MAX, "and no more: {said:?}");
        assert!(said[3].contains("cost `0`") && said[4].contains("2 fields"), "{said:?}");
        for (text, part) in [
            ("time,region,caller\n0,eu,\"a\"\n", "quotes"),
            ("time,region,caller\n0,eu,\n", "line 2: a caller of 0 bytes"),
            ("0.5,eu\n", "line 1: no column is called `0.5`"),
            ("region,cost\n", "no `time`"),
            ("time,region,time\n", "twice"),
            ("time,region,key,caller\n", "twice"),
            ("time,region\n-1,eu\n", "line 2: time `-1`"),
            ("time,region\nNaN,eu\n", "line 2: time `NaN`"),
            ("time,region\n", "no request"),
            ("", "line 1"),
        ] {
            let said = parse(text).expect_err("bad").join("\n");
            assert!(said.contains(part), "{text:?}: {said}");
        }
    }

    #[test]
    fn no_more_requests_than_the_bound_are_held() {
        let text = format!("time,region\n{}", "0,eu\n".repeat(REQUESTS_MAX));
        assert_eq!(parse(&text).expect("just enough").requests.len(), REQUESTS_MAX);
        let said = parse(&(text + "0,eu\n")).expect_err("one too many").join("\n");
        assert!(said.contains(&format!("line {}", REQUESTS_MAX + 2)), "{said}");
    }
}
