#!/bin/sh
# Ends the gateway that runs in FAAS_RUN_DIR (run), its workers and its console, older gateways that still finish calls
# after an upgrade, and a build that start.sh left running. The gateway first finishes the requests that it is
# answering, for at most the FAAS_LAME_DUCK_MS and FAAS_DRAIN_MS that it was started with. The script finds no process
# by its name, so it never ends a foreign one.
# The next line ends in a comment, so that it works, and can tell, when every line here ends in a carriage return.
! grep -q "$(printf '\r')" "$0" || { printf '%s\n' "$0 has Windows line endings; fix that with: sed -i 's/\r\$//' *.sh functions/*.sh init.sql" >&2; exit 1; } #
set -eu
cd "$(dirname "$(readlink -f "$0")")"

run_dir=${FAAS_RUN_DIR:-run}
drain_grace=50     # tenths of a second that the gateway may take on top of its drain
workers_wait=30    # tenths of a second for the workers to end by themselves once the gateway is gone
progress_tenths=50 # tenths of a second between two lines about what it waits for

say() { printf 'stop.sh: %s\n' "$*"; }
fail() {
    printf 'stop.sh: %s\n' "$*" >&2
    exit 1
}

# As in start.sh: the id in a pid file counts only while that process holds the very file open.
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

# Sets state, parent and born (clock ticks since boot) of the process $1 from proc(5)'s stat; false when it is gone.
facts() {
    stat=
    while read -r line; do stat=$line; done 2>/dev/null <"/proc/$1/stat" || return 1
    # The name, in brackets, may hold spaces, brackets and line feeds; the text after its last bracket does not.
    # shellcheck disable=SC2086 # to be split
    set -- ${stat##*) }
    [ "$#" -ge 20 ] || return 1
    state=$1 parent=$2 born=${20}
}

# Prints PID:BORN of the process $1 and of all its descendants. The two together identify a process for good: the kernel
# reuses an id, but not with the same time of birth.
tree() {
    everyone=
    for folder in /proc/[0-9]*; do
        if facts "${folder#/proc/}"; then everyone="$everyone ${folder#/proc/}:$parent:$born"; fi
    done
    found=" $1 "
    before=
    while [ "$found" != "$before" ]; do
        before=$found
        for entry in $everyone; do
            process=${entry%%:*}
            entry=${entry#*:}
            case $found in *" $process "*) continue ;; esac
            case $found in *" ${entry%%:*} "*) found="$found$process " ;; esac
        done
    done
    for process in $found; do
        if facts "$process"; then echo "$process:$born"; fi
    done
}

# True if the process PID:BORN still runs; a zombie does not.
runs() { facts "${1%:*}" && [ "$born" = "${1#*:}" ] && [ "$state" != Z ]; }

# Waits until none of $2 runs, at most $1 tenths of a second. Every few seconds it says for what.
wait_for_end_of() {
    tenths=$1
    for process in $2; do
        while runs "$process"; do
            [ "$tenths" -gt 0 ] || return 1
            tenths=$((tenths - 1))
            [ "$((($1 - tenths) % progress_tenths))" != 0 ] ||
                say "process ${process%:*} finishes its calls; it has another $((tenths / 10)) s"
            sleep 0.1
        done
    done
}

kill_what_is_left_of() {
    for process in $1; do
        if runs "$process"; then kill -KILL "${process%:*}" 2>/dev/null || true; fi
    done
}

# The build for WASM has a process group of its own. The next start.sh continues it.
end_build() {
    if builder=$(running_pid wasm-build.pid); then kill -TERM "-$builder" 2>/dev/null || true; fi
    rm -f "$run_dir/wasm-build.pid"
}

# Prints the process ids of all gateways here: the current one, and older ones that still finish calls.
all_gateways() {
    for folder in "$run_dir"/[0-9]*; do
        running_pid "${folder##*/}/gateway.pid" || true
    done
}

remove_leftovers() {
    if running_pid >/dev/null; then return 0; fi # it was started again meanwhile
    rm -f "$run_dir/gateway.pid" "$run_dir/gateway.address" "$run_dir/console.address" "$run_dir/current"
    rm -f "$run_dir/handover.sock"
    for folder in "$run_dir"/[0-9]*; do
        # Each folder holds the sockets and the pid file of one gateway.
        [ ! -e "$folder/gateway.pid" ] || rm -rf "$folder"
    done
}

if [ -d "$run_dir" ] && [ ! -x "$run_dir" ]; then
    fail "$run_dir belongs to another user; root can stop it with: $PWD/stop.sh"
fi
end_build
if ! gateway=$(running_pid); then
    if read -r pid 2>/dev/null <"$run_dir/gateway.pid" && [ -d "/proc/$pid" ] && [ ! -r "/proc/$pid/fd" ]; then
        fail "process $pid, which may be the gateway, belongs to another user; root can stop it with: $PWD/stop.sh"
    fi
    remove_leftovers
    say "nothing runs in $run_dir"
    exit 0
fi

# Prints the value of the setting $1 that the gateway was started with.
setting() { tr '\0' '\n' <"/proc/$gateway/environ" | sed -n "s/^$1=//p"; }

lame_duck_ms=$(setting FAAS_LAME_DUCK_MS)
drain_ms=$(setting FAAS_DRAIN_MS)
family=
heads=
for process in $(all_gateways); do
    branch=$(tree "$process")
    family="$family $branch"
    heads="$heads $(echo "$branch" | head -n 1)"
    kill -TERM "$process" 2>/dev/null || [ ! -d "/proc/$process" ] ||
        fail "process $process belongs to another user; root can stop it with: $PWD/stop.sh"
done
if ! wait_for_end_of "$(((${lame_duck_ms:-0} + ${drain_ms:-10000}) / 100 + drain_grace))" "$heads"; then
    say "process $gateway has not ended in time and is killed"
    for process in $(all_gateways); do family="$family $(tree "$process")"; done
    kill_what_is_left_of "$heads"
fi
# Workers whose gateway is gone kill their invocations and end.
if ! wait_for_end_of "$workers_wait" "$family"; then
    kill_what_is_left_of "$family"
    wait_for_end_of "$workers_wait" "$family" || fail "some of these processes do not end: $family"
fi
remove_leftovers
say "stopped process $gateway"
