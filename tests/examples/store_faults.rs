//! What nodes see of a store of several servers that breaks under load; `scripts/store-faults` runs it.

use std::io::{self, Write as _};

use tidegate_tests::faulted::{
    Figures, HEADING, primary_stands_still_until_it_is_replaced, primary_with_replica_lost,
    primary_without_replica_restarted, sentinels_primary_lost, slots_move,
    slots_of_a_lost_primary_given_away,
};

#[tokio::main]
async fn main() -> io::Result<()> {
    writeln!(io::stdout(), "{HEADING}")?;
    let row = |figures: Figures| writeln!(io::stdout(), "{}", figures.row());
    row(slots_move().await)?;
    row(primary_with_replica_lost().await)?;
    row(primary_stands_still_until_it_is_replaced().await)?;
    row(primary_without_replica_restarted().await)?;
    row(slots_of_a_lost_primary_given_away().await)?;
    row(sentinels_primary_lost().await)
}
