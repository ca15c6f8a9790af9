//! `tidegate policy`, and reading policies before a cluster starts with them.

use std::{fs, path::Path};

use tidegate_core::policy::{Mistake, PolicySet};

use tidegate_node::config::CLOCK_ERROR;

use super::{
    exit::{Exit, Failure},
    output, say,
};

/// Prints one line per mistake in a policy file; to standard error what a node would warn of whose
/// `cluster.clock_error` is the usual one.
pub(super) fn check(file: &Path) -> Result<Exit, Failure> {
    match PolicySet::parse(&text(file)?) {
        Ok(policies) => {
            for warning in policies.warnings(CLOCK_ERROR) {
                say(&format_args!("warning: {}: {warning}", file.display()));
            }
            Ok(Exit::Done)
        }
        Err(mistakes) => {
            for mistake in &mistakes {
                output::line(&described(file, mistake));
            }
            Ok(Exit::Usage)
        }
    }
}

/// Refuses a policy file with mistakes, all of them in the message.
pub(crate) fn must_be_sound(file: &Path) -> Result<(), Failure> {
    PolicySet::parse(&text(file)?).map(drop).map_err(|mistakes| {
        let lines: Vec<_> = mistakes.iter().map(|mistake| described(file, mistake)).collect();
        Failure::usage(lines.join("\n"))
    })
}

fn text(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| {
        Failure::usage(format_args!("cannot read policies {}: {error}", file.display()))
    })
}

/// `F:12: policy "public-api", limit "hourly", field "window": …`.
fn described(file: &Path, mistake: &Mistake) -> String {
    let Mistake { line, place, message } = mistake;
    match place.as_str() {
        "" => format!("{}:{line}: {message}", file.display()),
        place => format!("{}:{line}: {place}: {message}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(place: &str) -> Mistake {
        Mistake { line: 12, place: place.into(), message: "wrong".into() }
    }

    #[test]
    fn a_mistake_names_file_line_and_place() {
        let line = described(Path::new("p.toml"), &mistake("policy \"a\", field \"key\""));
        assert_eq!(line, "p.toml:12: policy \"a\", field \"key\": wrong");
        assert_eq!(described(Path::new("p.toml"), &mistake("")), "p.toml:12: wrong");
    }

    #[test]
    fn a_missing_file_is_a_usage_error() {
        let failure = check(Path::new("/no/such/file")).expect_err("there is no such file");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("/no/such/file"));
    }
}
