//! The command line of a node: `tidegate`.
//!
//! `cli` reads it, `dev` runs a whole local cluster, `bench` puts load on nodes; the server itself is the
//! library. Results go to standard output, logs to standard error; exit codes are those of `cli::exit`.

use std::process::ExitCode;

mod bench;
mod cli;
mod dev;

fn main() -> ExitCode {
    cli::main()
}
