//! The real `tidegate` executable, built if need be.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

/// Where the executable of the same build profile is. The first call of a process builds it if it is
/// missing or older than its sources.
///
/// # Panics
///
/// If it cannot be built.
pub fn tidegate() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        // target/<profile>/deps/<this test>, or target/<profile>/examples/<this example>
        let this = env::current_exe().expect("a process knows its executable");
        let directory = this
            .ancestors()
            .find(|directory| {
                directory.file_name().is_some_and(|name| name == "deps" || name == "examples")
            })
            .and_then(Path::parent)
            .expect("cargo puts them there");
        let executable = directory.join(format!("tidegate{}", env::consts::EXE_SUFFIX));
        if !is_current(&executable) {
            build(directory);
        }
        executable
    })
}

/// Runs `tidegate` with these arguments until it ends.
///
/// # Panics
///
/// If it cannot be started.
pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(tidegate()).args(arguments).output().expect("the executable starts")
}

/// Whether the executable is as new as every source that cargo says it is made of.
fn is_current(executable: &Path) -> bool {
    let age = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let (Ok(made), Ok(sources)) =
        (age(executable), fs::read_to_string(executable.with_extension("d")))
    else {
        return false;
    };
    // `executable: source source …`
    let mut sources = sources.split_whitespace().skip(1);
    sources.all(|source| age(Path::new(source)).is_ok_and(|changed| changed <= made))
}

fn build(directory: &Path) {
    let profile = match directory.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "-p", "tidegate-node", "--bin", "tidegate", "--profile", profile])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}
