#!/bin/sh
# Makes the package, installs it on a Debian 12, and has a systemd there run it:  tests/machines/package.sh ROOT
#
# ROOT is a folder with a Debian 12, as debootstrap makes it; the test works on a copy. systemd-nspawn boots that copy, in
# namespaces of its own. It needs root, and the network for packages. Run ./start.sh --prepare before: the package gets
# the programs that it has built.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."

boot_s_max=120
call_s_max=30
[ -d "${1-}/usr" ] || { echo 'usage: tests/machines/package.sh ROOT, a folder that debootstrap has made' >&2; exit 1; }
debian=$(readlink -f "$1")
work=$(mktemp -d)
root=$work/root
machine=
init=

step() { printf 'package.sh: %s\n' "$*"; }
fail() {
    printf 'package.sh: %s\n' "$*" >&2
    [ -z "$init" ] || inside journalctl --no-pager --lines 30 --unit faas.service --unit faas.socket >&2 || true
    exit 1
}

# shellcheck disable=SC2317 # reached by the trap below
leave() {
    # The end of the machine's first process ends all others there.
    [ -z "$machine" ] || kill -KILL ${init:+"$init"} "$machine" 2>/dev/null || true
    [ -z "$machine" ] || wait "$machine" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap leave EXIT
trap 'exit 1' HUP INT TERM

# Runs a command in the copy, which is not booted yet.
in_copy() {
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount --pid --fork --kill-child sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$root" \
        env DEBIAN_FRONTEND=noninteractive "$@" </dev/null >"$work/copy.log" 2>&1 ||
        { tail -n 20 "$work/copy.log" >&2; fail "failed in the copy: $*"; }
}
# Runs a command in the booted machine.
inside() { nsenter --target "$init" --mount --uts --ipc --net --pid --cgroup "$@"; }
# Prints the response to a request of the machine's client.
call() { inside curl -sS --max-time "$call_s_max" "$@"; }

# Fails unless the text $2 contains $3; $1 names the check.
check() {
    case $2 in
    *"$3"*) echo "ok: $1" ;;
    *) fail "$1: expected $3, got: $2" ;;
    esac
}

# Waits until the command succeeds; $1 names what is awaited.
await() {
    awaited=$1
    shift
    deadline=$(($(date +%s) + boot_s_max))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$deadline" ] || fail "not after $boot_s_max s: $awaited"
        kill -0 "$machine" 2>/dev/null || { cat "$work/boot.log" >&2; fail "the machine ended before: $awaited"; }
        sleep 0.2
    done
}

# shellcheck disable=SC2317 # called by await
find_init() {
    init=$(cat "/proc/$machine/task/$machine/children") && init=${init%% *} && [ -n "$init" ] &&
        [ "$(inside cat /proc/1/comm)" = systemd ]
}

step 'make the package'
(cd "$work" && "$OLDPWD/deploy/deb.sh")
step 'lintian'
lintian --fail-on error "$work"/faas_*.deb

step 'install it on a bare Debian'
cp -a "$debian" "$root"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp "$work"/faas_*.deb "$root/root/"
in_copy apt-get -qq update
in_copy sh -c 'apt-get -qq install -y --no-install-recommends /root/faas_*.deb'
in_copy sh -c '/usr/lib/faas/gateway --version && faas --version'
in_copy apt-get -qq install -y --no-install-recommends systemd-sysv curl

step 'boot it'
# Its network has a loopback interface only. nspawn's own filter of system calls lacks those of Landlock.
systemd-nspawn --quiet --directory "$root" --register=no --keep-unit --private-network --boot \
    --system-call-filter='landlock_create_ruleset landlock_add_rule landlock_restrict_self' \
    >"$work/boot.log" 2>&1 </dev/null &
machine=$!
await 'the machine has a systemd' find_init
await 'faas.service is active' inside systemctl is-active faas.service
check 'the service has told that it is ready' "$(inside systemctl show -p Type -p SubState faas.service | tr '\n' ' ')" \
    'Type=notify SubState=running'
check 'systemd holds the port' "$(inside systemctl show -p SubState faas.socket)" running

json='Content-Type: application/json'
check 'hello.php' "$(call -X POST http://localhost:8080/api/hello -H "$json" -d '{"name":"Alice"}')" \
    '{"message":"Hello, Alice!","runtime":"php 8.2.'
check 'info.php' "$(call http://localhost:8080/api/info)" '"path":"/api/info"'
check 'ping.wasm' "$(call http://localhost:8080/ping)" '{"pong":true}'
printf '{"image":"%s","width":80}' "$(base64 -w0 examples/landscape.png)" >"$root/picture.json"
check 'resize.wasm' "$(call -X POST http://localhost:8080/resize -H "$json" -d @/picture.json)" '"width":80'
check 'env.sh' "$(call 'http://localhost:8080/api/env?a=b')" 'query a=b'
check 'the command faas finds the registry of the service' "$(inside faas list)" POST:/api/hello
check 'and its gateway' "$(inside faas status)" ready
log=$(inside journalctl --quiet --no-pager --output cat --unit faas.service)
case $log in *'faas-php is not built'* | *'faas-php cannot start'*) fail 'faas-php does not run PHP functions' ;; esac
# What the unit takes from root must not weaken the sandbox.
there=$(echo "$log" | grep -c ' sandbox: .* not kept: ' || true)
here=$("${CARGO_TARGET_DIR:-target}/release/worker" --sandbox | grep -c '"level": "not kept"' || true)
check 'the sandbox keeps its promises as on this machine' "not kept: $there." "not kept: $here."

step 'upgrade it under requests'
inside sh -c 'DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --reinstall /root/faas_*.deb' >"$work/upgrade.log" 2>&1 &
upgrade=$!
deadline=$(($(date +%s) + call_s_max))
until [ "$(inside journalctl --quiet --output cat --unit faas.service | grep -c 'gateway: listening on ')" = 2 ]; do
    [ "$(date +%s)" -lt "$deadline" ] || fail "it has not started again after $call_s_max s"
    check 'a request meanwhile' "$(call http://localhost:8080/ping)" '{"pong":true}' >/dev/null
done
wait "$upgrade" || { cat "$work/upgrade.log" >&2; fail 'apt-get cannot upgrade it'; }
echo 'ok: no request was refused meanwhile'

step 'remove it'
inside env DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y faas >"$work/purge.log" 2>&1 || { cat "$work/purge.log"; fail 'purge'; }
left=$(inside sh -c 'ls -d /run/faas /var/lib/faas /etc/default/faas /usr/lib/faas /usr/share/faas; cat /proc/[0-9]*/comm' 2>/dev/null |
    grep -e / -e gateway -e worker || true)
check 'nothing is left of it' "left: $left." 'left: .'
