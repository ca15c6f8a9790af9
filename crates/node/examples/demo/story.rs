//! The acts, and the promises that each of them checks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::{
    cluster::{Cluster, REGIONS},
    load::{Load, Seen},
    say,
    table::{Limit, Row, render},
};

/// The limits of `config/demo-policies.toml`.
const PER_SECOND: u64 = 300;
const PER_DAY: u64 = 3_000;
const BURST: &str = "/demo/burst";
const QUOTA: &str = "/demo/quota";
/// The region that is cut off, and the one that loses its store.
const CUT: &str = "ap";
const WIPED: &str = "eu";
/// Requests to each region before the cut, and during it.
const BEFORE: u32 = 300;
const DURING: u32 = 400;
/// How soon all regions must know the exact sum again.
const CONVERGENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// How long the acts are.
pub(crate) struct Story {
    burst: Duration,
    before: Duration,
    cut: Duration,
    after: Duration,
    rows: Vec<Row>,
    promises: Vec<(bool, String)>,
}

impl Story {
    pub(crate) fn new(short: bool) -> Self {
        let seconds = |long, shorter| Duration::from_secs(if short { shorter } else { long });
        Self {
            burst: seconds(15, 6),
            before: seconds(5, 3),
            cut: seconds(12, 5),
            after: seconds(12, 6),
            rows: Vec::new(),
            promises: Vec::new(),
        }
    }

    /// Plays all acts; whether all promises held.
    pub(crate) async fn play(mut self, cluster: &mut Cluster) -> Result<bool, String> {
        self.opening(cluster);
        self.three_times_too_much(cluster).await?;
        wait_for_a_day_that_lasts(self.before + self.cut + self.after).await;
        let mut day = self.one_quota(cluster).await?;
        day += self.cut_and_healed(cluster, day).await?;
        self.wiped_and_spent(cluster, day).await?;
        Ok(self.closing())
    }

    fn opening(&self, cluster: &Cluster) {
        say::line(
            "Three regions, each with a node and a store of its own, as far apart as continents",
        );
        say::line(
            "(round trips: eu-us 80 ms, us-ap 150 ms, eu-ap 180 ms). Every region decides alone:",
        );
        say::line("no check ever waits for another region.");
        for region in REGIONS {
            let node = cluster.node(region);
            say::line(&format!("  {region}  {}  store: {}", node.url(), node.store));
        }
    }

    async fn three_times_too_much(&mut self, cluster: &Cluster) -> Result<(), String> {
        say::act(1, "A limit of 300 a second over all regions, and 300 a second to each of them");
        say::line("   Three times too much. What is under way between regions may come on top.");
        let seconds = u32::try_from(self.burst.as_secs()).map_err(|error| error.to_string())?;
        let load = Load { route: BURST, each: 300 * seconds, over: self.burst };
        let seen = load.put_on(cluster).await?;
        let windows: Vec<Row> =
            seen.whole_labels().into_iter().map(|label| window(&seen, label)).collect();
        let worst = windows.iter().max_by_key(|row| row.all()).ok_or("no whole window was seen")?;
        let least = windows.iter().map(Row::all).min().unwrap_or_default();
        let count = windows.len();
        let mean = windows.iter().map(Row::all).sum::<u64>() / count as u64;
        say::line(&format!(
            "   {count} whole seconds: {least} to {} admitted, {mean} on average.",
            worst.all()
        ));
        let over = |row: &Row| row.limit.is_some_and(|limit| row.all() > limit.bound);
        let broken = windows.iter().filter(|row| over(row)).count();
        self.promise(
            broken == 0,
            format!("no second of {count} admitted more than `plain` may ({broken} did)"),
        );
        self.promise(
            least >= PER_SECOND,
            format!("no second refused what still fitted (the least admitted {least})"),
        );
        self.rows.push(worst.clone());
        Ok(())
    }

    /// Spends a part of the daily quota everywhere; how much.
    async fn one_quota(&mut self, cluster: &Cluster) -> Result<u64, String> {
        say::act(2, "A quota of 3000 a day, spent in all regions");
        let load = Load { route: QUOTA, each: BEFORE, over: self.before };
        let seen = load.put_on(cluster).await?;
        let sum = seen.admitted();
        self.part("3000 a day, all regions", &seen);
        let took = exact_everywhere(cluster, sum).await?;
        say::line(&format!("   {sum} admitted. {}", knows(took)));
        self.promise(took.is_ok(), format!("every region knows all {sum} within 2 s"));
        Ok(sum)
    }

    /// Cuts a region off, spends on both sides, heals; how much was spent.
    async fn cut_and_healed(&mut self, cluster: &Cluster, before: u64) -> Result<u64, String> {
        say::act(3, "ap is cut off, and all regions go on");
        cluster.cut_off(CUT).await?;
        let load = Load { route: QUOTA, each: DURING, over: self.cut };
        let seen = load.put_on(cluster).await?;
        let sum = before + seen.admitted();
        self.part("  while ap was cut off", &seen);
        let views = beliefs(cluster).await?;
        say::line(&format!(
            "   {} admitted meanwhile. Used, as each region knows it:",
            seen.admitted()
        ));
        say::line(&format!("   {} - in truth {sum}.", worded(views)));
        let apart = views[0] != sum && views[2] != sum;
        self.promise(apart, "the cut was one: neither side knew what the other admitted".into());

        say::act(4, "The cut heals");
        cluster.heal().await?;
        let took = exact_everywhere(cluster, sum).await?;
        say::line(&format!("   {}", knows(took)));
        let when = took.map_or("not at all".into(), |took| format!("{} ms", took.as_millis()));
        self.promise(
            took.is_ok(),
            format!("after the heal every region knows all {sum} within 2 s ({when})"),
        );
        Ok(sum - before)
    }

    /// Wipes a store, then asks for three times what is left.
    async fn wiped_and_spent(&mut self, cluster: &mut Cluster, before: u64) -> Result<(), String> {
        say::act(5, "The store of eu loses everything, and three times the rest is asked for");
        let done = cluster.wipe_store(WIPED).await?;
        say::line(&format!("   {done}."));
        let took = exact_everywhere(cluster, before).await?;
        say::line(&format!("   {}", knows(took)));
        self.promise(took.is_ok(), format!("after the loss every region still knows all {before}"));

        let rest = PER_DAY.saturating_sub(before);
        // Three regions, three times the rest: the whole rest to each.
        let each = u32::try_from(rest).map_err(|error| error.to_string())?;
        let load = Load { route: QUOTA, each, over: self.after };
        let seen = load.put_on(cluster).await?;
        let sum = before + seen.admitted();
        say::line(&format!("   {} asked for, {} admitted.", seen.offered(), seen.admitted()));
        self.part("  after eu's store was wiped", &seen);
        let took = exact_everywhere(cluster, sum).await?;
        self.promise(
            took.is_ok(),
            format!("in the end every region knows all {sum} that were admitted"),
        );

        let label = seen.last_label().ok_or("nothing was answered")?;
        let bound = seen.bound(PER_DAY, label);
        self.promise(
            sum <= bound,
            format!("nothing was given out twice: {sum} admitted of {PER_DAY}, at most {bound} by `plain`"),
        );
        self.promise(sum >= PER_DAY, format!("nothing was withheld: {sum} admitted of {PER_DAY}"));
        self.whole_day(Limit { quantity: PER_DAY, bound });
        Ok(())
    }

    fn promise(&mut self, held: bool, what: String) {
        self.promises.push((held, what));
    }

    /// A line of the table for a part of the daily quota.
    fn part(&mut self, what: &str, seen: &Seen) {
        let (offered, admitted) = (seen.offered(), seen.by_region());
        self.rows.push(Row { what: what.into(), offered, admitted, limit: None });
    }

    /// A line of the table for all parts of the daily quota.
    fn whole_day(&mut self, limit: Limit) {
        let parts = &self.rows[1..];
        let offered = parts.iter().map(|row| row.offered).sum();
        let admitted = [0, 1, 2].map(|index| parts.iter().map(|row| row.admitted[index]).sum());
        let what = "  the day as a whole".into();
        self.rows.push(Row { what, offered, admitted, limit: Some(limit) });
    }

    fn closing(&self) -> bool {
        say::line(&format!("\n{}", render(REGIONS, &self.rows)));
        say::line(
            "\n`over`: admitted above the limit. `may be`: the most that `plain` may admit, given how",
        );
        say::line("fast requests came, and how old the regions' knowledge of each other was.\n");
        for (held, what) in &self.promises {
            say::line(&format!("  {}  {what}", if *held { "ok    " } else { "BROKEN" }));
        }
        let broken = self.promises.iter().filter(|(held, _)| !held).count();
        say::line(&match broken {
            0 => "\nAll promises held.".into(),
            broken => format!("\n{broken} of {} promises were broken.", self.promises.len()),
        });
        broken == 0
    }
}

/// One window of the short limit, as a line of the table.
fn window(seen: &Seen, label: u64) -> Row {
    let bound = seen.bound(PER_SECOND, label);
    Row {
        what: "300 a second, the worst second".into(),
        offered: 3 * PER_SECOND,
        admitted: seen.admitted_in(label),
        limit: Some(Limit { quantity: PER_SECOND, bound }),
    }
}

/// What each region knows to be used of the daily quota.
async fn beliefs(cluster: &Cluster) -> Result<[u64; 3], String> {
    let mut views = [0; 3];
    for (view, region) in views.iter_mut().zip(REGIONS) {
        *view = cluster.used(region, QUOTA).await?;
    }
    Ok(views)
}

/// Waits until every region knows the exact sum: after which time, or what they know instead.
async fn exact_everywhere(
    cluster: &Cluster,
    sum: u64,
) -> Result<Result<Duration, [u64; 3]>, String> {
    let start = Instant::now();
    loop {
        let views = beliefs(cluster).await?;
        let took = start.elapsed();
        if views == [sum; 3] {
            return Ok(Ok(took));
        }
        if took > CONVERGENCE {
            return Ok(Err(views));
        }
        sleep(POLL).await;
    }
}

fn knows(took: Result<Duration, [u64; 3]>) -> String {
    match took {
        Ok(took) => format!("Every region knows the exact sum after {} ms.", took.as_millis()),
        Err(views) => format!("After 2 s the regions still know other sums: {}.", worded(views)),
    }
}

fn worded(views: [u64; 3]) -> String {
    let words: Vec<_> =
        REGIONS.iter().zip(views).map(|(region, used)| format!("{region} {used}")).collect();
    words.join(", ")
}

/// The quota starts anew at midnight UTC. A story that would run across it waits until it is over.
async fn wait_for_a_day_that_lasts(needed: Duration) {
    const DAY: u64 = 86_400;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = Duration::from_secs(DAY - now.as_secs() % DAY);
    if left < needed + Duration::from_secs(20) {
        say::line(&format!(
            "\nIt is {} s to midnight UTC; the day begins anew then.",
            left.as_secs()
        ));
        sleep(left + Duration::from_secs(1)).await;
    }
}
