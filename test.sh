#!/bin/sh
# Runs all tests: cargo's, and then the seed's curl and sqlite3 commands against an instance of its own. That instance
# has its own port, registry and run dir, so a running gateway is left alone. The last line is the result, such as "120
# passed, 0 failed". It installs the packages that the tests need, where that needs no password, and else names the
# command; a test that lacks a program fails. Skipped are only tests that the user or the kernel cannot run, and those
# that need a program which Debian lacks, or which few machines have. With CI=true or FAAS_TEST_STRICT=1 all tests run.
# The next line ends in a comment, so that it works, and can tell, when every line here ends in a carriage return.
! grep -q "$(printf '\r')" "$0" || { printf '%s\n' "$0 has Windows line endings; fix that with: sed -i 's/\r\$//' *.sh functions/*.sh init.sql" >&2; exit 1; } #
set -eu
cd "$(dirname "$(readlink -f "$0")")"

passed=0 failed=0 skipped=0 watcher=
strict=${FAAS_TEST_STRICT:-0}
[ "${CI-}" != true ] || strict=1
change_seconds_max=5 # until a change of the registry must be in service
silent_seconds_max=4 # then a line says how far it is

have() { command -v "$1" >/dev/null 2>&1; }

# Prints the packages that the tests need and that are missing.
missing_packages() {
    for program in php-cgi logrotate python3; do
        have "$program" || echo "$program"
    done
    have php || echo php-cli
    echo 'int main(void) { return 0; }' | clang --target=wasm32-wasi -x c -o /dev/null - 2>/dev/null ||
        echo clang lld wasi-libc libclang-rt-14-dev-wasm32
}

# Prints a line, and notes how far this script is, by default the same: say LINE [NOTE]
say() {
    printf '%s\n' "$1"
    printf '%s\n' "${2-$1}" >"$work/printed"
}

# Announces the next step.
step() { say "test.sh: $*"; }

# Until this script ends: prints the last note whenever nothing else was printed for some seconds. It starts no program
# but sleep: while a fork bomb is tested, that may take seconds.
watch_for_silence() {
    read -r now _ </proc/uptime
    began=${now%.*} last=${now%.*}
    echo >"$work/seen"
    # A zombie has no program. This script may be one for as long as its parent reads this output.
    while sleep 1 >/dev/null 2>&1 && [ -e "/proc/$$/exe" ]; do
        read -r now _ </proc/uptime
        now=${now%.*}
        # shellcheck disable=SC3013 # -nt is in POSIX since 2024, and in dash for much longer
        if [ "$work/printed" -nt "$work/seen" ]; then
            echo >"$work/seen"
            last=$now
        elif [ "$((now - last))" -ge "$silent_seconds_max" ]; then
            read -r note <"$work/printed" || true
            printf 'test.sh: %s s so far: %s\n' "$((now - began))" "${note#test.sh: }"
            last=$now
        fi
    done
}

# Counts one test that was not run, named $1, for the reason $2.
skip() {
    echo "skipped: $1: $2"
    if [ "$strict" = 1 ]; then failed=$((failed + 1)); else skipped=$((skipped + 1)); fi
}

# Counts one check, named $1: does the text $3 match the shell pattern $2?
check() {
    # shellcheck disable=SC2254 # it is a pattern
    case $3 in
    $2)
        say "ok: $1"
        passed=$((passed + 1))
        ;;
    *)
        say "FAILED: $1"
        printf '  expected: %s\n  got:      %s\n' "$2" "$3"
        failed=$((failed + 1))
        ;;
    esac
}

# Prints status and body of the answer to a request for the path $1; the other arguments are options of curl.
request() {
    path=$1
    shift
    : >"$work/body"
    curl -sS --max-time 60 -o "$work/body" -w '%{http_code} ' "$@" "$url$path" 2>&1 || true
    cat "$work/body"
}

# Like check, for a request that is repeated until its answer matches: check_soon NAME PATTERN PATH [CURL OPTION...]
check_soon() {
    name=$1 pattern=$2 deadline=$(($(date +%s) + change_seconds_max))
    shift 2
    while :; do
        answer=$(request "$@")
        # shellcheck disable=SC2254 # it is a pattern
        case $answer in $pattern) break ;; esac
        [ "$(date +%s)" -lt "$deadline" ] || break
        sleep 0.1
    done
    check "$name" "$pattern" "$answer"
}

# Ends the instance and prints the result, however this script ends.
# shellcheck disable=SC2317 # reached by the trap below
leave() {
    code=$?
    [ ! -e "$work/run/gateway.pid" ] || ./stop.sh >"$work/stop.log" 2>&1 || cat "$work/stop.log"
    [ -z "$watcher" ] || { kill "$watcher" && wait "$watcher"; } 2>/dev/null || true
    rm -rf "$work"
    [ "$code" = 0 ] || [ "$failed" != 0 ] || failed=1
    if [ "$skipped" = 0 ]; then
        echo "$passed passed, $failed failed"
    else
        echo "$passed passed, $failed failed, $skipped skipped"
    fi
    [ "$failed" = 0 ] || exit 1
}

# Prints the output of cargo test, and writes three sums into the file `sums`: of the tests that passed, of those that
# failed, and of those that a test program had not ended when it came to its own end.
show_tests() {
    all_passed=0 all_failed=0 unended=0 running='' ended=0
    while IFS= read -r line; do
        note=${line#   }
        case $line in
        'running '*' test' | 'running '*' tests')
            running=${line#running } ended=0
            running=${running% test*}
            unended=$((unended + running))
            ;;
        'test result: '*)
            # shellcheck disable=SC2086 # to be split: test result: ok. 3 passed; 0 failed; 1 ignored; ...
            set -- $line
            all_passed=$((all_passed + $4)) all_failed=$((all_failed + $6)) unended=$((unended - $4 - $6 - $8)) running=
            ;;
        'test '*' ... ok' | 'test '*' ... FAILED') ended=$((ended + 1)) ;;
        'test '*' ... ignored, '*)
            ended=$((ended + 1)) name=${line#test }
            echo "${name%% ... *}: ${line#* ... ignored, }; .ci/run installs that" >>"$work/ignored"
            ;;
        esac
        [ -z "$running" ] || note="$ended of $running tests have ended"
        say "$line" "cargo test: $note"
    done
    echo "$all_passed $all_failed $unended" >"$work/sums"
}

# Shows and adds up the results of cargo's test programs. Tests that this user or this kernel cannot run append
# "NAME: REASON" to the file FAAS_TEST_SKIPS and end as if they had passed.
run_cargo_tests() {
    step 'cargo test: unit tests, then integration tests; about ten minutes on two cores'
    if [ "$strict" = 1 ]; then set -- -- --include-ignored; fi
    {
        FAAS_TEST_SKIPS=$work/skips cargo test --locked --no-fail-fast "$@" 2>&1 || touch "$work/cargo.failed"
    } | show_tests
    read -r all_passed all_failed unended <"$work/sums"
    # A test program that did not reach its end fails the tests that it has not ended.
    passed=$((passed + all_passed - $(wc -l <"$work/skips"))) failed=$((failed + all_failed + unended))
    # It did not compile.
    [ ! -e "$work/cargo.failed" ] || [ "$failed" != 0 ] || failed=1
    cat "$work/ignored" >>"$work/skips"
    while read -r line; do skip "${line%%: *}" "${line#*: }"; done <"$work/skips"
}

start_own_instance() {
    # No setting of the caller's may leak into the instance.
    for name in $(env | sed -n 's/^\(FAAS_[A-Z_]*\)=.*/\1/p') PORT; do
        unset "$name"
    done
    export FAAS_PORT=0 FAAS_HOST=127.0.0.1 FAAS_DB="$work/registry.db" FAAS_RUN_DIR="$work/run" FAAS_MODULE_ROOT="$PWD"
    export FAAS_CONSOLE= # none, since its port may be taken
    if FAAS_INSTALL=0 ./start.sh >"$work/start.log" 2>&1; then
        url=http://$(cat "$work/run/gateway.address")
        return 0
    fi
    cat "$work/start.log"
    return 1
}

test_php() {
    check 'POST /api/hello greets Alice' '200 *"message":"Hello, Alice!"*' \
        "$(request /api/hello -X POST -H 'Content-Type: application/json' -d '{"name":"Alice"}')"
    check 'POST /api/hello refuses what is not JSON' '400 *"error":"the body is not JSON*' \
        "$(request /api/hello -X POST -H 'Content-Type: application/json' -d '{"name":')"
    check 'GET /api/info tells of its request' '200 *"method":"GET","path":"/api/info","query":"a=1"*' \
        "$(request '/api/info?a=1')"
}

# Sends the picture $2 and checks the PNG in the answer: its signature, and the width and height in its header.
check_resize() {
    answer=$(request /resize -X POST -H 'Content-Type: application/json' -d "{\"image\":\"$2\",\"width\":800}")
    check "POST /resize scales a $1" '200 *"width":800,"height":600}' "$answer"
    header=$(echo "$answer" | sed -n 's/.*"image":"\([^"]*\)".*/\1/p' | base64 -d | od -A n -t x1 -N 24 | tr -d ' \n')
    check "POST /resize turns a $1 into a PNG of 800 x 600" 89504e470d0a1a0a0000000d494844520000032000000258 "$header"
}

test_wasm() {
    check 'GET /ping answers' '200 {"pong":true}' "$(request /ping)"
    # Both pictures are 8 x 6 pixels.
    check_resize PNG "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAGCAIAAABxZ0isAAAAIklEQVR42mNkYGhQYGDARIwMGrgkAnBJVOCSWIBL4gR2CQAL\
eAqfoX137QAAAABJRU5ErkJggg=="
    check_resize JPEG "/9j/2wBDABAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBD/\
wAALCAAGAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAA//EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AR//Z"
    check "POST /resize refuses the seed's placeholder" '400 *"error":*base64*' \
        "$(request /resize -X POST -H 'Content-Type: application/json' -d '{"image":"base64data...","width":800}')"
}

# The seed's INSERT, verbatim except for the module: the seed's is a file that does not exist.
insert_convert() {
    sqlite3 "$FAAS_DB" << EOF || true # the check that follows tells
INSERT INTO functions (k, v, updated) VALUES (
  'POST:/api/convert',
  '{"name":"imageConverter","runtime":"wasm","module":"$PWD/functions/ping.wasm","handler":"convert","memory":512,"timeout":30}',
  strftime('%s','now')
);
EOF
}

test_registry() {
    check 'a path without a route answers 404' '404 *' "$(request /api/convert -X POST -d '{"format":"png"}')"
    insert_convert
    check_soon 'an INSERT puts a route into service' '200 {"pong":true}' /api/convert -X POST -d '{"format":"png"}'
    sqlite3 "$FAAS_DB" << EOF || true # the check that follows tells
UPDATE functions
SET v='{"module":"$PWD/functions/env.sh","name":"env","runtime":"native"}',
    updated=strftime('%s','now')
WHERE k='POST:/resize';
EOF
    check_soon 'an UPDATE changes what a route runs' '200 method POST*path /resize*query a=1*' '/resize?a=1' -X POST
    sqlite3 "$FAAS_DB" "DELETE FROM functions WHERE k='POST:/api/convert'" || true
    check_soon 'a DELETE takes a route out of service' '404 *' /api/convert -X POST -d '{"format":"png"}'
}

for folder in "${HOME-}/.cargo/bin" "${HOME-}/.wasmer/bin"; do
    if [ -d "$folder" ]; then PATH=$PATH:$folder; fi
done
PATH=$PATH:/usr/sbin # of logrotate; Debian gives it to root only
export PATH

work=$(mktemp -d)
trap leave EXIT
trap 'exit 1' HUP INT TERM
touch "$work/skips" "$work/ignored"

step '1 of 3: build what is not built yet'
# shellcheck disable=SC2046 # a list of names
./start.sh --prepare $(missing_packages)
watch_for_silence 2>/dev/null &
watcher=$!
step '2 of 3: the tests of the code'
run_cargo_tests
step "3 of 3: the seed's curl and sqlite3 commands against an instance of its own"
if ! start_own_instance; then
    failed=$((failed + 1))
else
    test_php
    test_wasm
    test_registry
    touch -d @0 "${CARGO_TARGET_DIR:-target}/release/faas-php"
    check 'start.sh builds a runtime for an instance that runs' 'start.sh: already runs *building faas-php*' \
        "$(FAAS_INSTALL=0 ./start.sh 2>&1)"
    check 'start.sh --upgrade has a successor take over' 'start.sh: process * has taken over from process *' \
        "$(FAAS_INSTALL=0 ./start.sh --upgrade 2>"$work/upgrade.log" | tail -n 1; cat "$work/upgrade.log" >&2)"
    check 'the successor answers' '200 *' "$(request /api/env)"
    check 'stop.sh stops the instance' 'stop.sh: stopped process *' "$(./stop.sh 2>&1)"
    check 'stop.sh leaves nothing but the log and the token' 'gateway.log
operator.token' "$(ls "$FAAS_RUN_DIR")"
fi
