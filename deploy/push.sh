#!/bin/sh
# Sends the whole registry from the writer to followers in the same network, each time that it has changed:
#
#   deploy/push.sh REGISTRY TARGET...           until SIGTERM or Ctrl-C
#   deploy/push.sh --once REGISTRY TARGET...    once
#
# A TARGET is the path of a follower's registry: [USER@]HOST:/PATH, which needs ssh without a password, or /PATH in a
# folder that both share. The script copies the file beside its place, checks it, and renames it, so the follower's
# gateway sees the old file or the new one. It names a target that it cannot reach, and tries again after some seconds.
#
#   HEARTBEAT_S   20    seconds between heartbeats in the registry; 0: none. /healthz of a follower shows their age
#   LOOK_S        0.1   seconds between looks at the registry
#   SSH                 the command for ssh, with its options
set -eu

ssh=${SSH:-ssh -o BatchMode=yes -o ConnectTimeout=5}
heartbeat_s=${HEARTBEAT_S:-20}
look_s=${LOOK_S:-0.1}
retry_s=5 # pause after a failed delivery
delivery_s_max=60

say() { printf 'push.sh: %s\n' "$*"; }
warn() { printf 'push.sh: %s\n' "$*" >&2; }
fail() {
    warn "$@"
    exit 1
}

# Prints $1 as one word for a shell.
quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }

# Waits for other writers.
sql() { sqlite3 -cmd '.timeout 5000' "$registry" "$1"; }

# Runs the shell text $2 on the machine of the target $1, with our stdin. One connection serves many deliveries.
run_at() {
    if [ "${1#/}" != "$1" ]; then
        timeout "$delivery_s_max" sh -c "$2"
    else
        # shellcheck disable=SC2086 # a command and its options
        timeout "$delivery_s_max" $ssh -S "$work/ssh-%C" -o ControlMaster=auto -o ControlPersist=30 "${1%%:/*}" "$2"
    fi
}

# Sends a snapshot of the registry to the target $1 of number $2. The checksum keeps an incomplete copy out of its
# place.
push() {
    snapshot=$work/snapshot-$2
    rm -f "$snapshot"
    sql "VACUUM INTO $(quoted "$snapshot")" || return 1
    sum=$(cksum <"$snapshot")
    [ "$sum" != "${sent-}" ] || return 0
    path=$(quoted "/${1#*/}")
    new=$(quoted "/${1#*/}.arriving")
    run_at "$1" "umask 077; cat >$new && [ \"\$(cksum <$new)\" = '$sum' ] && mv $new $path" <"$snapshot" || return 1
    sent=$sum
    say "delivered ${sum#* } bytes to $1"
}

# The registry's file and its -wal: a commit changes one of them. Each reading makes an empty -wal, which does not
# count.
stamps() { find -L "$registry" "$registry-wal" -size +0 -printf '%D %i %s %T@\n' 2>/dev/null || true; }

# Pushes to the target $1 of number $2 whenever the registry has changed. Each target has a process of its own, so that
# a lost target does not delay the others.
follow() {
    seen=
    while :; do
        found=$(stamps)
        if [ "$found" = "$seen" ]; then
            sleep "$look_s"
        elif push "$1" "$2"; then
            seen=$found
        else
            warn "could not deliver to $1; trying again in $retry_s s"
            sleep "$retry_s"
        fi
    done
}

# Writes heartbeats into the registry.
beat() {
    while :; do
        sql "INSERT INTO settings (name, value) VALUES ('heartbeat_at', CAST(strftime('%s', 'now') AS INTEGER))
            ON CONFLICT (name) DO UPDATE SET value = excluded.value" ||
            warn "could not write a sign of life to $registry; it needs history: gateway --init gives it one"
        sleep "$heartbeat_s"
    done
}

# shellcheck disable=SC2317 # reached by the trap below
leave() {
    # shellcheck disable=SC2086 # a list of ids
    [ -z "$children" ] || kill $children 2>/dev/null || true
    for socket in "$work"/ssh-*; do
        # shellcheck disable=SC2086 # a command and its options
        [ ! -S "$socket" ] || $ssh -S "$socket" -O exit any 2>/dev/null || true
    done
    rm -rf "$work"
}

once=0
if [ "${1-}" = --once ]; then
    once=1
    shift
fi
[ "$#" -ge 2 ] || fail 'usage: push.sh [--once] REGISTRY TARGET...; a TARGET is [USER@]HOST:/PATH or /PATH'
registry=$1
shift
for target in "$@"; do
    case $target in
    /?* | ?*:/?*) ;;
    *) fail "$target is no target; it is [USER@]HOST:/PATH or /PATH" ;;
    esac
done
[ -f "$registry" ] || fail "no registry is at $registry"
command -v sqlite3 >/dev/null || fail 'sqlite3 is missing; install it with: apt-get install -y sqlite3'

work=$(mktemp -d)
children=
trap leave EXIT
trap 'exit 0' HUP INT TERM

number=0
for target in "$@"; do
    number=$((number + 1))
    if [ "$once" = 1 ]; then
        push "$target" "$number" || fail "could not deliver to $target"
        sent=
    else
        follow "$target" "$number" &
        children="$children $!"
    fi
done
[ "$once" = 0 ] || exit 0
if [ "$heartbeat_s" != 0 ]; then
    beat &
    children="$children $!"
fi
wait
