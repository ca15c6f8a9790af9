//! The table at the end.

/// One line: what was asked, what was admitted, what should have been.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) offered: u64,
    /// By region, in the order of the heading.
    pub(crate) admitted: [u64; 3],
    /// `None` where the line is only a part of something limited.
    pub(crate) limit: Option<Limit>,
}

/// How much might be admitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) quantity: u64,
    /// The most that `plain` may admit, as fast as the requests came and as old as the regions'
    /// knowledge of each other was.
    pub(crate) bound: u64,
}

impl Row {
    pub(crate) fn all(&self) -> u64 {
        self.admitted.iter().sum()
    }
}

/// The table as text.
pub(crate) fn render(regions: [&str; 3], rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0).max(4);
    let [a, b, c] = regions;
    let mut text = format!(
        "{:width$} {:>8} | {:>6} {:>6} {:>6} {:>8} | {:>6} {:>7} {:>9}\n",
        "", "offered", a, b, c, "admitted", "limit", "over", "may be"
    );
    text.push_str(&"-".repeat(width + 66));
    for row in rows {
        let [a, b, c] = row.admitted;
        let limit = row.limit.map_or_else(String::new, |limit| {
            let over = row.all().saturating_sub(limit.quantity);
            format!(
                "{:>6} {:>7} {:>9}",
                limit.quantity,
                percent(over, limit.quantity),
                percent(limit.bound - limit.quantity, limit.quantity)
            )
        });
        let line = format!(
            "\n{:width$} {:>8} | {a:>6} {b:>6} {c:>6} {:>8} | {limit}",
            row.what,
            row.offered,
            row.all()
        );
        text.push_str(line.trim_end());
    }
    text
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole as f64)
}
