#!/bin/sh
# Builds the platform and starts it in the background:  ./start.sh
#   --foreground   stays in the foreground, with the log on the terminal
#   --prepare      installs and builds what is missing, and starts nothing; packages named behind it are installed, too
#   --upgrade      builds, and has a new gateway take over from the one that runs; no connection is refused meanwhile
#
# Settings are environment variables (target/release/gateway --help lists them); relative paths in them are taken from
# this folder. FAAS_INSTALL=0 installs nothing. What is there already, a registry above all, is left as it is.
# The next line ends in a comment, so that it works, and can tell, when every line here ends in a carriage return.
! grep -q "$(printf '\r')" "$0" || { printf '%s\n' "$0 has Windows line endings; fix that with: sed -i 's/\r\$//' *.sh functions/*.sh init.sql" >&2; exit 1; } #
set -eu
cd "$(dirname "$(readlink -f "$0")")"

run_dir=${FAAS_RUN_DIR:-run}
log=$run_dir/gateway.log
registry=${FAAS_DB:-faas_meta.db}
target=${CARGO_TARGET_DIR:-target}/release
ready_seconds_max=30   # a gateway that takes over gives up after this
upgrade_seconds_max=60 # it then ends its workers and removes its folder
progress_seconds=4     # between two lines about something that takes long
bar='Building \[[^]]*\] ' # in cargo's output: behind it stands how far cargo is, and a \r

say() { printf 'start.sh: %s\n' "$*"; }
warn() { printf 'start.sh: %s\n' "$*" >&2; }
fail() {
    warn "$@"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Prints the command "$@" as this user types it to run it as root. Debian installs sudo only where root has no password.
as_root() {
    if [ -z "$sudo" ]; then
        echo "$*"
    elif have sudo; then
        echo "sudo $*"
    else
        echo "su - -c '$*'"
    fi
}

# Prints the process id in the pid file $1 of our run dir, by default gateway.pid. The id counts only while that process
# holds the very file open: after a crash the number may belong to another process.
running_pid() {
    pid_file=$run_dir/${1:-gateway.pid}
    read -r pid 2>/dev/null <"$pid_file" || return 1
    for fd in "/proc/$pid/fd"/*; do
        # shellcheck disable=SC3013 # -ef is in POSIX since 2024, and in dash for much longer
        if [ "$fd" -ef "$pid_file" ]; then
            echo "$pid"
            return 0
        fi
    done
    return 1
}

# Prints the address of the running gateway for a browser on this machine; the gateway wrote it to a file.
url() {
    read -r address <"$run_dir/gateway.address" || return 1
    case $address in
    0.0.0.0:* | 127.* | '[::]'* | '[::1]'*) echo "http://localhost:${address##*:}" ;;
    *) echo "http://$address" ;;
    esac
}

# An editor on Windows may have changed the line ends of any file; in a script that shows only when a request calls it.
hint_at_line_endings() {
    files=$(grep -l "$(printf '\r')\$" ./*.sh functions/*.sh init.sql .ci/run 2>/dev/null | tr '\n' ' ') || true
    [ -z "$files" ] || warn "Windows line endings are in ${files% }; fix that with: sed -i 's/\\r\$//' ${files% }"
}

need_compilers() {
    rust='curl -sSf https://sh.rustup.rs | sh -s -- -y'
    have curl || rust="$(as_root apt-get install -y curl) && $rust"
    if ! have cargo || ! found=$(rustc --version 2>/dev/null); then
        fail "Rust is missing; install it with: $rust"
    fi
    found=$(echo "$found" | cut -d ' ' -f 2)
    needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    if [ "$(printf '%s\n' "$needed" "$found" | sort -V | head -n 1)" != "$needed" ]; then
        fail "Rust $found is too old, $needed is needed; install a newer one with: $rust"
    fi
    have cc || fail "a C compiler is missing (SQLite is compiled from C); install one with: $(as_root apt-get install -y gcc libc6-dev)"
}

# Runs a command, and says every few seconds that it goes on: with_progress_of DOING OUTPUT COMMAND... The last line of the
# file OUTPUT tells how far it is; apt-get writes NAME:PACKAGE:PERCENT:TEXT there.
with_progress_of() {
    doing=$1 output=$2
    shift 2
    (
        began=$(date +%s)
        # A zombie has no program. This script may be one for as long as its parent reads this output.
        while sleep "$progress_seconds" >/dev/null 2>&1 && [ -e "/proc/$$/exe" ]; do
            line=$(tail -n 1 "$output" | sed "s/[ \r]*\$//; s/.*\r//; s/^ *//; s/^$bar//
                s/^[dp][lm]status:.*:\([0-9]*\)[.0-9]*:\([^:]*\)\$/\1 %, \2/")
            say "$doing, $(($(date +%s) - began)) s so far${line:+: $line}"
        done
    ) &
    progress=$!
    result=0
    "$@" || result=$?
    kill "$progress" 2>/dev/null || true
    wait "$progress" 2>/dev/null || true
    return "$result"
}

# The same for a command that calls cargo and writes into the file OUTPUT. Its messages appear only when it fails.
with_progress_of_cargo() {
    doing=$1 output=$2
    shift 2
    with_progress_of "$doing" "$output" into_file "$output" \
        env CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=80 "$@" && return 0
    tr '\r' '\n' <"$output" | grep -v "^ *\(Compiling \|Download\|$bar\)" >&2
    return "$result"
}

# Runs a command with its output in the file $1.
into_file() {
    file=$1
    shift
    "$@" </dev/null >"$file" 2>&1
}

# Runs a command that uses the file /dev/fd/8, which has no name and so stays behind in no case.
with_unnamed_file() {
    unnamed=$(mktemp)
    {
        rm -f "$unnamed"
        "$@"
    } 8<>"$unnamed"
}

# Calls apt-get as root without a prompt. Its own output appears only when it fails: the last line.
apt_get() { with_unnamed_file apt_get_into /dev/fd/8 "$@"; }

apt_get_into() {
    apt_output=$1
    shift
    with_progress_of "apt-get $1" "$apt_output" into_file "$apt_output" ${sudo:+sudo -n} \
        env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=60 -o APT::Status-Fd=1 "$@" && return 0
    warn "failed: apt-get $*: $(grep -v '^[dp][lm]status:' "$apt_output" | tail -n 1)"
    return "$result"
}

has_libphp() {
    for library in /usr/lib/libphp*.so /usr/lib/*/libphp*.so; do
        [ ! -e "$library" ] || return 0
    done
    return 1
}

# Also installs the packages "$@".
install_missing_packages() {
    missing="${*:+ $*}"
    # The build of faas-php needs them.
    have php-config || missing="$missing php-dev"
    has_libphp || missing="$missing libphp-embed"
    have sqlite3 || missing="$missing sqlite3"
    have curl || missing="$missing curl"
    if [ -z "$missing" ]; then return 0; fi
    if [ "${FAAS_INSTALL:-1}" = 0 ] || ! have apt-get || { [ -n "$sudo" ] && ! sudo -n true 2>/dev/null; }; then
        [ -z "$*" ] || warn "packages are missing; install them with: $(as_root apt-get install -y "$@")"
        return 0
    fi
    say "installing$missing (FAAS_INSTALL=0 prevents that)"
    # shellcheck disable=SC2086 # a list of names
    apt_get install -y $missing 2>/dev/null || { apt_get update && apt_get install -y $missing; } || true
}

# Prints one line for each missing program: the feature that needs it, and the command that installs it.
hint_at_missing_programs() {
    [ -x "$target/faas-php" ] || have php-cgi || have php ||
        warn "PHP is missing, PHP functions will answer 503; install it with: $(as_root apt-get install -y libphp-embed php-dev)"
    have sqlite3 || warn "the sqlite3 program is missing, for editing routes; install it with: $(as_root apt-get install -y sqlite3)"
    have curl || warn "curl is missing, for trying things out; install it with: $(as_root apt-get install -y curl)"
}

build() {
    [ -x "$target/gateway" ] || say "building; the first time this takes some minutes"
    with_unnamed_file with_progress_of_cargo building /dev/fd/8 cargo build --release --locked || exit
    build_php
}

build_php() {
    if php_config=$(command -v php-config) && [ -n "$php_config" ] && has_libphp; then
        with_progress_of 'building faas-php' /dev/null runtimes/build.sh php ||
            warn "PHP functions run by php-cgi or php, where they are installed, and slower"
    elif have php-cgi || have php; then
        warn "PHP functions run by php-cgi or php, and slower; for faas-php: $(as_root apt-get install -y libphp-embed php-dev)"
    fi
}

# The programs for WASM take minutes; PHP and native functions need not wait for them.
build_wasm_in_background() {
    if runtimes/build.sh --is-fresh wasm || running_pid wasm-build.pid >/dev/null; then return 0; fi
    until_then='answer 503'
    ! have wasmer || until_then='run by wasmer'
    say "building faas-wasm and faas-wasm-component in the background, some minutes: $run_dir/wasm-build.log"
    [ -x "$target/faas-wasm" ] || say "WASM functions $until_then until then"
    # shellcheck disable=SC2016 # for the inner shell
    setsid nice -n 19 sh -c 'echo $$ >&9; exec runtimes/build.sh wasm' \
        >"$run_dir/wasm-build.log" 2>&1 9>"$run_dir/wasm-build.pid" </dev/null &
}

# A gateway that runs finds process id and log of this build, too. Without a process group of its own, it is not ended by
# stop.sh or by another start.sh.
build_wasm_in_foreground() {
    if runtimes/build.sh --is-fresh wasm; then return 0; fi
    end_background_build
    [ -w "$run_dir" ] || run_dir=$target
    say "building faas-wasm and faas-wasm-component; the first time that takes some minutes: $run_dir/wasm-build.log"
    # shellcheck disable=SC2016 # for the inner shell
    with_progress_of_cargo 'building for WASM' "$run_dir/wasm-build.log" \
        sh -c 'echo $$ >&9; exec runtimes/build.sh wasm' 9>"$run_dir/wasm-build.pid" && return 0
    warn "the programs for WASM could not be built; without faas-wasm, WASM functions need wasmer, or answer 503"
}

# A build that start.sh started runs at the lowest priority. A caller that waits for it is faster to continue it at the
# usual priority: cargo keeps the compiled parts.
end_background_build() {
    builder=$(running_pid wasm-build.pid) || return 0
    say "going on with the build for WASM that runs in the background as process $builder"
    # The build leads a session of its own, so this ends its compilers, too.
    kill -TERM "-$builder" 2>/dev/null || return 0
    while running_pid wasm-build.pid >/dev/null; do sleep 0.1; done
}

prepare() {
    need_compilers
    install_missing_packages "$@"
    hint_at_missing_programs
    build
}

make_places() {
    [ -d "$run_dir" ] || (umask 077 && mkdir -p "$run_dir")
    touch "$log" 2>/dev/null ||
        fail "$(id -un) may not write $log: another user, root perhaps, has made it; change the owner, or set FAAS_RUN_DIR"
    if [ -e "$registry" ]; then
        code=0
        "$target/gateway" --init || code=$?
        [ "$code" != 2 ] || exit 2 # a setting is wrong
        [ "$code" = 0 ] || warn "the registry stays as it is, without history; its rows go on working"
    else
        "$target/gateway" --init
    fi
}

# Starts the gateway in a session of its own, so that neither Ctrl-C nor the end of this terminal reaches it. With the
# argument --succeed it takes over from the running gateway.
start_in_background() {
    log_bytes_before=$(wc -c <"$log")
    setsid "$target/gateway" "$@" >>"$log" 2>&1 </dev/null &
    started=$!
    seconds_max=$ready_seconds_max
    [ "$#" = 0 ] || seconds_max=$upgrade_seconds_max
    deadline=$(($(date +%s) + seconds_max))
    next=$(($(date +%s) + progress_seconds))
    until [ "$(running_pid)" = "$started" ] && "$target/gateway" --healthz >/dev/null 2>&1; do
        if ! kill -0 "$started" 2>/dev/null; then
            code=0
            wait "$started" || code=$?
            case $code in 1 | 2) lines=1 ;; *) lines=10 ;; esac # with 1 and 2 its last line says why
            tail -c "+$((log_bytes_before + 1))" "$log" | tail -n "$lines" >&2
            exit "$((code ? code : 1))"
        fi
        [ "$(date +%s)" -lt "$deadline" ] ||
            fail "process $started is not ready after $seconds_max s; $log may say why; ./stop.sh ends it"
        if [ "$(date +%s)" -ge "$next" ]; then
            say "process $started is not ready yet; it has another $((deadline - $(date +%s))) s. Its last line: $(tail -n 1 "$log")"
            next=$(($(date +%s) + progress_seconds))
        fi
        sleep 0.1
    done
    [ "$#" = 0 ] || return 0
    # Warnings with a remedy belong on the first terminal, too.
    tail -c "+$((log_bytes_before + 1))" "$log" | sed -n 's/^[^ ]* gateway: \(.*try: .*\)$/start.sh: \1/p
        s/^[^ ]* sandbox: \(.*\)\. not kept: \(.*\)$/start.sh: the sandbox does not keep this promise: \1 (\2)/p' >&2
    read -r address <"$run_dir/gateway.address" || address=
    case $address in
    0.0.0.0:* | '[::]'*) warn "it listens on all addresses and asks for no password; FAAS_HOST=127.0.0.1 keeps it to this machine" ;;
    esac
    say "ready at $(url), process $started, log in $log; ./stop.sh ends it. Try:"
    echo "  curl -X POST $(url)/api/hello -H 'Content-Type: application/json' -d '{\"name\":\"Alice\"}'"
    echo "  curl $(url)/api/info"
}

mode=${1:---background}
case $mode in
--background | --foreground | --prepare | --upgrade) ;;
*) fail "unknown argument $mode; there are --foreground, --prepare and --upgrade" ;;
esac

for folder in "${HOME-}/.cargo/bin" "${HOME-}/.wasmer/bin"; do
    if [ -d "$folder" ]; then PATH=$PATH:$folder; fi
done
export PATH
sudo=
[ "$(id -u)" = 0 ] || sudo='sudo '

hint_at_line_endings
if [ "$mode" = --prepare ]; then
    shift
    prepare "$@"
    build_wasm_in_foreground
    exit 0
fi
if [ "$mode" = --upgrade ]; then
    old=$(running_pid) || fail "nothing runs in $run_dir; ./start.sh starts it"
    prepare
    make_places
    build_wasm_in_background
    say "starting the successor of process $old"
    start_in_background --succeed
    say "process $started has taken over from process $old, which finishes its calls; log in $log"
    exit 0
fi
if running=$(running_pid); then
    say "already runs as process $running at $(url || echo 'an address it is about to open'); ./stop.sh ends it"
    # It finds new runtimes by itself, and its answers for a missing one name this script.
    install_missing_packages
    build_php
    build_wasm_in_background
    exit 0
fi
prepare
make_places
build_wasm_in_background
if [ "$mode" = --foreground ]; then exec "$target/gateway"; fi
start_in_background
