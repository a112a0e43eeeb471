#!/bin/sh
# Builds faas-php, which runs PHP functions, as OUT. It takes some seconds.
#   build.sh OUT
# Where it cannot, one line says what is missing.
set -eu
cd "$(dirname "$(readlink -f "$0")")"

give_up() {
    echo "faas-php is not built: $1" >&2
    exit 1
}

[ $# -eq 1 ] || give_up "usage: build.sh OUT"
out=$1
command -v cc >/dev/null || give_up "a C compiler is missing (apt install gcc)"
config=$(command -v php-config || true)
[ -n "$config" ] || give_up "php-config is missing (apt install php-dev)"
version=$("$config" --version | cut -d. -f1,2)
library=php
for name in "php$version" php; do
    # Debian numbers the library, PHP's own installation does not.
    if echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - -l"$name" 2>/dev/null; then
        library=$name
        break
    fi
    [ "$name" != php ] || give_up "libphp of PHP $version is missing (apt install libphp$version-embed)"
done
includes=$("$config" --includes | sed 's/-I/-isystem /g')
# shellcheck disable=SC2086
setting() { printf '#include <main/php_config.h>\n#if %s\nyes\n#endif\n' "$1" | cc $includes -E -P - 2>/dev/null | grep -q yes; }
setting 1 || give_up "the headers of PHP $version are missing (apt install php$version-dev)"
if setting 'defined(ZTS) && ZTS'; then give_up "this PHP is built with threads (ZTS); it takes one without"; fi
if setting 'defined(ZEND_DEBUG) && ZEND_DEBUG'; then give_up "this PHP is built for debugging; it takes one that is not"; fi

# `now` has a libphp that lacks a function stop the program when it starts, not in the middle of a request.
# shellcheck disable=SC2086
cc -std=gnu11 -O2 -Wall -Wextra -Wno-unused-parameter $includes -o "$out.new" src/*.c -l"$library" -Wl,-z,now

# A library that does not fit its extensions says so as it starts.
script=$(mktemp)
trap 'rm -f "$script" "$out.new"' EXIT
echo '<?php echo "started";' >"$script"
said=$("$out.new" run "$script" 2>&1) || true
[ "$said" = started ] || give_up "libphp does not start as it should: $(echo "$said" | head -n 1)"
mv "$out.new" "$out"
