//! The command line of a node: `tidegate`.

use std::process::ExitCode;

mod bench;
mod cli;
mod dev;

fn main() -> ExitCode {
    cli::main()
}
