# What the scripts share. To be sourced; the sourcing script has set `set -euo pipefail`.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root" || exit 2

# Says something on standard error, where logs go.
note() {
    printf '%s\n' "$*" >&2
}

die() {
    note "error: $*"
    exit 2
}

# step TITLE COMMAND…: runs the command silently and says in one line what became of it and how long
# it took. The output is shown only if it fails (or with VERBOSE=1); the script then ends.
step() {
    local title="$1" started=$SECONDS log
    shift
    printf '%-58s ' "$title" >&2
    if [[ -n "${VERBOSE:-}" ]]; then
        printf '\n' >&2
        "$@" >&2 || { note "FAILED: $title"; exit 1; }
        return
    fi
    log="$(mktemp)"
    if "$@" >"$log" 2>&1; then
        printf 'ok      %4d s\n' $((SECONDS - started)) >&2
        # What the test runner counted, so that a run that tested nothing shows.
        grep -E '^ +Summary|^test result' "$log" >&2 || true
        rm -f "$log"
    else
        printf 'FAILED  %4d s\n' $((SECONDS - started)) >&2
        cat "$log" >&2
        rm -f "$log"
        exit 1
    fi
}

need_cargo() {
    # A Rust that was just installed is not in the path of an older shell.
    if ! command -v cargo >/dev/null && [[ -f "$HOME/.cargo/env" ]]; then
        # shellcheck source=/dev/null
        source "$HOME/.cargo/env"
    fi
    command -v cargo >/dev/null || die "cargo is missing; install Rust from https://rustup.rs"
    # Cryptography and the allocator are built from C.
    command -v cc >/dev/null && command -v make >/dev/null && return
    note "a C compiler or make is missing; installing build-essential by apt-get"
    apt_install build-essential >&2 || die "install a C compiler and make"
}

# Runs a command as root: as it is, or through sudo where that asks nothing.
as_root() {
    if [[ "$(id -u)" == 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

apt_install() {
    as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@"
}

# Installs redis-server if it is missing and can be had. Succeeds if it is there afterwards.
have_redis() {
    command -v redis-server >/dev/null && return
    command -v apt-get >/dev/null || return 1
    note "redis-server is missing; installing it by apt-get"
    apt_install redis-server >&2 || return 1
    command -v redis-server >/dev/null
}
