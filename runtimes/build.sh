#!/bin/sh
# Builds faas-wasm, which runs WASM functions, and puts it beside the gateway, where workers look for it. The first time this
# takes a few minutes. start.sh calls it in the background, test.sh in the foreground.
#   --is-fresh   builds nothing: says by its exit status whether what is there is newer than its sources
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."

target=$(readlink -m "${CARGO_TARGET_DIR:-target}")
placed=$target/release/faas-wasm

is_fresh() {
    [ -x "$placed" ] && [ -z "$(find runtimes/wasm/.cargo runtimes/wasm/Cargo.toml runtimes/wasm/Cargo.lock runtimes/wasm/src -newer "$placed")" ]
}

case ${1-} in
'') ;;
--is-fresh) if is_fresh; then exit 0; else exit 1; fi ;;
*)
    echo "runtimes/build.sh: unknown argument $1; there is --is-fresh" >&2
    exit 1
    ;;
esac

if is_fresh; then exit 0; fi
# Debian's C library comes with what linking statically takes; where another does not, children take a little longer to fork.
if ! echo 'int main(void) { return 0; }' | cc -static -x c -o /dev/null - 2>/dev/null; then
    export RUSTFLAGS="-C target-feature=-crt-static"
fi
echo "runtimes/build.sh: building faas-wasm; the first time this takes a few minutes"
# A target folder of its own: else whoever calls cargo meanwhile would wait for this.
(cd runtimes/wasm && cargo build --release --locked --target-dir "$target/wasm")
mkdir -p "$target/release"
# In one step, so that a worker finds all of it or nothing.
cp "$target/wasm/$(rustc -vV | sed -n 's/^host: //p')/release/faas-wasm" "$placed.new"
mv "$placed.new" "$placed"
