//! Tables for people: Markdown whose columns stand in line.

use std::fmt::{self, Write as _};

/// A table whose columns are as wide as their widest cell, in Markdown.
pub(crate) fn table(
    f: &mut fmt::Formatter<'_>,
    head: &[&str],
    rows: &[Vec<String>],
) -> fmt::Result {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |f: &mut fmt::Formatter<'_>, cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::from("|");
        for (column, cell) in cells.enumerate() {
            let width = widths[column];
            // Names to the left, numbers to the right.
            if column == 0 {
                write!(text, " {cell:<width$} |")?;
            } else {
                write!(text, " {cell:>width$} |")?;
            }
        }
        writeln!(f, "{text}")
    };
    line(f, &mut head.iter().copied())?;
    let rules: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(n, width)| if n == 0 { "-".repeat(*width) } else { "-".repeat(width - 1) + ":" })
        .collect();
    line(f, &mut rules.iter().map(String::as_str))?;
    for row in rows {
        line(f, &mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// A number of percent, as people read it.
pub(crate) fn percent(value: f64) -> String {
    format!("{value:.2} %")
}
