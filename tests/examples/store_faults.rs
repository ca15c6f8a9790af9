//! What nodes see of a store of several servers that breaks under load; `scripts/store-faults` runs it.

use std::io::{self, Write as _};

use tidegate_tests::faulted::{
    HEADING, primary_with_replica_lost, primary_without_replica_restarted, sentinels_primary_lost,
    slots_move, slots_of_a_lost_primary_given_away,
};

#[tokio::main]
async fn main() -> io::Result<()> {
    let faults = [
        slots_move().await,
        primary_with_replica_lost().await,
        primary_without_replica_restarted().await,
        slots_of_a_lost_primary_given_away().await,
        sentinels_primary_lost().await,
    ];
    let mut out = io::stdout();
    writeln!(out, "{HEADING}")?;
    for figures in faults {
        writeln!(out, "{}", figures.row())?;
    }
    Ok(())
}
