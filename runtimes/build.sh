#!/bin/sh
# Builds the runtimes and puts them beside the gateway, where workers look for them: faas-php, which takes some seconds, and
# faas-wasm with faas-wasm-component, which takes some minutes the first time.
#   build.sh [php|wasm]             one of them; both, where none is named
#   build.sh --is-fresh php|wasm    builds nothing: its exit status is 0 where what is there is newer than its sources, and starts
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."

target=$(readlink -m "${CARGO_TARGET_DIR:-target}")
placed=$target/release

is_fresh() {
    [ -x "$placed/faas-$1" ] || return 1
    case $1 in
    php) sources='runtimes/php/build.sh runtimes/php/src' ;;
    wasm) sources='runtimes/wasm/.cargo runtimes/wasm/Cargo.toml runtimes/wasm/Cargo.lock runtimes/wasm/src' ;;
    wasm-component)
        sources='runtimes/wasm/.cargo runtimes/wasm/Cargo.toml runtimes/wasm/Cargo.lock runtimes/wasm/src runtimes/wasm/component'
        ;;
    esac
    # After an upgrade of Debian, libphp may be another than faas-php was built with.
    [ "$1" != php ] || "$placed/faas-php" run functions/info.php >/dev/null 2>&1 || return 1
    # shellcheck disable=SC2086 # a list of paths
    [ -z "$(find $sources -newer "$placed/faas-$1")" ]
}

build_php() {
    if is_fresh php; then return 0; fi
    echo "runtimes/build.sh: building faas-php; that takes some seconds"
    runtimes/php/build.sh "$placed/faas-php"
}

# faas-wasm, and then faas-wasm-component.
build_wasm() {
    if is_fresh wasm && is_fresh wasm-component; then return 0; fi
    # Debian's C library comes with what linking statically takes; where another does not, children take longer to fork.
    if ! echo 'int main(void) { return 0; }' | cc -static -x c -o /dev/null - 2>/dev/null; then
        export RUSTFLAGS="-C target-feature=-crt-static"
    fi
    for program in faas-wasm faas-wasm-component; do
        if is_fresh "${program#faas-}"; then continue; fi
        echo "runtimes/build.sh: building $program; the first time this takes a few minutes"
        # A target folder of its own: else whoever calls cargo meanwhile would wait for this. One command for each: see
        # runtimes/wasm/Cargo.toml.
        (cd runtimes/wasm && cargo build --release --locked --target-dir "$target/wasm" --package "$program")
        # In one step, so that a worker finds all of it or nothing.
        cp "$target/wasm/$(rustc -vV | sed -n 's/^host: //p')/release/$program" "$placed/$program.new"
        mv "$placed/$program.new" "$placed/$program"
    done
}

mkdir -p "$placed"
case ${1-} in
'')
    result=0
    build_php || result=1
    build_wasm
    exit "$result"
    ;;
php | wasm) "build_$1" ;;
--is-fresh)
    case ${2-} in
    php) if is_fresh php; then exit 0; else exit 1; fi ;;
    wasm) if is_fresh wasm && is_fresh wasm-component; then exit 0; else exit 1; fi ;;
    esac
    echo 'runtimes/build.sh: --is-fresh takes php or wasm' >&2
    exit 1
    ;;
*)
    echo "runtimes/build.sh: unknown argument $1; there are php, wasm and --is-fresh" >&2
    exit 1
    ;;
esac
