#!/bin/sh
# Builds deploy/Containerfile and runs it:  tests/machines/container.sh ROOT
#
# ROOT is a folder with a Debian 12, as debootstrap makes it. It replaces the image debian:bookworm-slim. buildah runs
# the steps in a chroot, without a daemon and without cgroups. It needs root, and the network for packages. Run
# ./start.sh --prepare before: the image gets the programs that it has built.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."

start_s_max=60
[ -d "${1-}/usr" ] || { echo 'usage: tests/machines/container.sh ROOT, a folder that debootstrap has made' >&2; exit 1; }
root=$(readlink -f "$1")

step() { printf 'container.sh: %s\n' "$*"; }
fail() {
    printf 'container.sh: %s\n' "$*" >&2
    [ ! -e "$work/container.log" ] || tail -n 20 "$work/container.log" >&2
    exit 1
}
engine() { buildah --root "$work/images" --runroot "$work/run" --storage-driver vfs "$@"; }

# shellcheck disable=SC2317 # reached by the trap below
leave() {
    engine rm --all >/dev/null 2>&1 || true
    rm -rf "$work"
}

# Prints the container's response to a GET of the path $1.
get() { curl -sS --max-time 30 "http://127.0.0.1:8080$1"; }

# Fails unless the text $2 contains $3; $1 names the check.
check() {
    case $2 in
    *"$3"*) echo "ok: $1" ;;
    *) fail "$1: expected $3, got: $2" ;;
    esac
}

# Runs the container and its clients, the rest of this script, in a network of their own.
run_container() {
    container=$(engine from --pull-never localhost/faas)
    step 'run the container'
    ip link set lo up
    engine run --isolation chroot "$container" -- sh -c 'gateway --init && exec gateway' >"$work/container.log" 2>&1 &
    running=$!
    deadline=$(($(date +%s) + start_s_max))
    until get /healthz >/dev/null 2>&1 && engine run --isolation chroot "$container" -- gateway --healthz; do
        [ "$(date +%s)" -lt "$deadline" ] || fail "it is not ready after $start_s_max s"
        kill -0 "$running" 2>/dev/null || fail 'it has ended'
        sleep 0.2
    done
    check 'it answers a PHP function' "$(get /api/info)" '"path":"/api/info"'
    check 'it answers a WASM function' "$(get /ping)" '{"pong":true}'
    check 'it answers a native function' "$(get /api/env)" 'path /api/env'
    gateway=$(pgrep -x gateway) # in this namespace of processes are no others
    check 'it does not run as root' "$(sed -n 's/^Uid:\t//p' "/proc/$gateway/status")" 65532
    kill -TERM "$gateway"
    wait "$running" || fail "SIGTERM ended it with $?"
    echo 'ok: SIGTERM ends it with exit code 0'
}

if [ "${FAAS_TEST_CONTAINER-}" != '' ]; then
    work=$FAAS_TEST_CONTAINER
    run_container
    exit 0
fi
work=$(mktemp -d)
trap leave EXIT
trap 'exit 1' HUP INT TERM

step 'make the base image'
base=$(engine from scratch)
engine add --quiet "$base" "$root" / >/dev/null
engine commit --quiet "$base" localhost/debian >/dev/null
engine rm "$base" >/dev/null
step 'build deploy/Containerfile'
engine build --format docker --isolation chroot --build-arg FROM=localhost/debian -t localhost/faas -f deploy/Containerfile . \
    >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; fail 'it does not build'; }
config=$(engine inspect --type image localhost/faas | tr -d ' \n')
check 'the image has a health check' "$config" '"gateway","--healthz"'
check 'the image ends by SIGTERM' "$config" '"StopSignal":"SIGTERM"'
FAAS_TEST_CONTAINER=$work unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "$root"
