//! What the breaker and the bound on calls cost a check that passes both, uncontended:
//!
//! `cargo run --release -p tidegate-core --example breaker`

use std::{
    error::Error,
    hint::black_box,
    io::{self, Write},
    time::Instant,
};

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use tidegate_core::{
    calls::{Calls, Settings},
    time::{Mono, Span},
};

const CALLS: u64 = 20_000_000;

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn main() -> Result<(), Box<dyn Error>> {
    let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
    let mut calls = Calls::new(Settings::default(), random);
    calls.learn(Mono(0), true);
    let started = Instant::now();
    let mut passed = 0_u64;
    for n in 0..CALLS {
        // A call every 10 us of virtual time, answered after 400 us.
        let now = black_box(Mono(n * 10));
        let took = black_box(Span::micros(400));
        if let Ok(mut call) = calls.admit(now) {
            passed += 1;
            call.note(took, Ok(()));
            calls.end(now + took, call);
        }
    }
    let each = started.elapsed().as_secs_f64() * 1e9 / CALLS as f64;
    writeln!(io::stdout(), "{passed} of {CALLS} calls passed, {each:.1} ns each")?;
    Ok(())
}
