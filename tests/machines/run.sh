#!/bin/sh
# Runs the tests of several machines:  tests/machines/run.sh [OPTION OF THE TEST PROGRAM...]
#
# They run in namespaces of their own for network, processes and mounts. So all their processes end with them, after ten
# minutes at the latest.
set -eu
seconds_max=600
cd "$(dirname "$(readlink -f "$0")")/../.."

fail() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 1
}

for program in unshare ip haproxy litestream sshd ssh sqlite3 redis-server; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || fail "$program is missing; .ci/run installs it"
done
as_root=
[ "$(id -u)" = 0 ] || as_root='sudo -n'

# Built here, since the namespace has no network.
cargo build --locked --bins
program=$(cargo test --locked --test machines --no-run 2>&1 | tee /dev/stderr | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
[ -x "$program" ] || fail 'could not build tests/machines'

# shellcheck disable=SC2016 # for the inner shell
inside='mount -t tmpfs none /run && mkdir /run/netns /run/sshd && ip link set lo up && "$@"'
# shellcheck disable=SC2086 # a command and its option, or nothing
exec $as_root timeout -s KILL "$seconds_max" env "PATH=$PATH:/usr/sbin" unshare --net --mount --pid --fork --kill-child --mount-proc \
    sh -c "$inside" sh "$program" --test-threads=1 --nocapture "$@"
