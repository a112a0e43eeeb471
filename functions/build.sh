#!/bin/sh
# Builds the WebAssembly examples from functions/src:  ./build.sh
# Compares the committed ones with a fresh build:      ./build.sh --check
#
# Only needed after a change in functions/src: the built modules are part of the repository. The same compiler gives
# the same bytes, so the comparison is exact; it holds for the packages of Debian 12 (clang 14).
set -eu
cd "$(dirname "$0")"

packages='clang lld wasi-libc libclang-rt-14-dev-wasm32 libstb-dev'
for file in /usr/bin/clang /usr/bin/wasm-ld /usr/lib/wasm32-wasi/libc.a \
    /usr/lib/llvm-14/lib/clang/14.*/lib/wasi/libclang_rt.builtins-wasm32.a /usr/include/stb/stb_image.h; do
    if [ ! -e "$file" ]; then
        echo "build.sh: $file is missing; root installs it with: apt-get install -y $packages" >&2
        exit 1
    fi
done

compile() {
    clang --target=wasm32-wasi -std=c11 -O3 -Wall -Wextra -Werror -Wl,--strip-all "$@"
}

# Builds all modules into the folder $1.
build() {
    compile -nostartfiles src/ping.c -o "$1/ping.wasm"

    # No -msimd128: with it the scaling takes a third longer under wasmer (Cranelift).
    # 384 MiB are what the largest picture takes that is let in. The stack, 64 KiB by default, is put below the data,
    # so that an overflow traps instead of writing into it.
    compile -isystem /usr/include/stb -Wl,--max-memory=402653184 -Wl,-z,stack-size=262144 -Wl,--stack-first \
        src/resize.c src/json.c src/base64.c src/image.c src/deflate.c -o "$1/resize.wasm"
}

case ${1-} in
'') build . ;;
--check)
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    build "$fresh"
    for module in ping.wasm resize.wasm; do
        if [ "$(sha256sum <"$module")" != "$(sha256sum <"$fresh/$module")" ]; then
            echo "build.sh: functions/$module differs from a fresh build; run functions/build.sh and commit it" >&2
            exit 1
        fi
    done
    ;;
*)
    echo "build.sh: unknown argument $1; the only one is --check" >&2
    exit 2
    ;;
esac
