#!/bin/sh
# Builds faas_VERSION_ARCH.deb in the working folder, out of the release build:
#   ./start.sh --prepare && deploy/deb.sh && apt install ./faas_*.deb
# The package has systemd serve the example functions on port 8080, with the units beside this script.
set -eu
place=$PWD
cd "$(dirname "$(readlink -f "$0")")/.."

target=${CARGO_TARGET_DIR:-target}/release
fail() {
    printf 'deb.sh: %s\n' "$*" >&2
    exit 1
}

for program in gateway worker console faas faas-php faas-wasm faas-wasm-component; do
    [ -x "$target/$program" ] || fail "$target/$program is missing; build it with: ./start.sh --prepare"
done
command -v dpkg-deb >/dev/null || fail "dpkg-deb is missing; the package can be built on Debian and its kin only"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)-1
architecture=$(dpkg --print-architecture)
library=$(readlink -f "$(ldd "$target/faas-php" | sed -n 's/.*=> \(.*libphp[^ ]*\) .*/\1/p')")
# dpkg lists the file under /usr, whatever path the loader took.
php=$(dpkg -S "*${library#/usr}" 2>/dev/null | sed -n 's/^\(libphp[0-9.]*-embed\):.*/\1/p' | head -n 1)
[ -n "$php" ] || fail "$target/faas-php is not linked with Debian's libphp; build it with: runtimes/build.sh php"
# An older libphp of the same series lacks functions that the headers of this one call.
# shellcheck disable=SC2016 # a field of dpkg-query's
php_version=$(dpkg-query -W -f '${source:Upstream-Version}' "$php")

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
put() { install -D -m "$1" "$2" "$root/$3"; }

for program in gateway worker console faas faas-php faas-wasm faas-wasm-component; do
    put 755 "$target/$program" "usr/lib/faas/$program"
    strip --remove-section=.comment --remove-section=.note "$root/usr/lib/faas/$program"
done
mkdir -p "$root/usr/bin" "$root/usr/share/doc/faas" "$root/DEBIAN"
{
    cat <<'EOF'
#!/bin/sh
# The command faas. Unless FAAS_DB or FAAS_RUN_DIR names another instance, it is for that of faas.service.
if [ -z "${FAAS_DB-}${FAAS_RUN_DIR-}" ]; then
    set -a
EOF
    sed -n 's/^Environment=/    /p' deploy/faas.service
    cat <<'EOF'
    [ ! -r /etc/default/faas ] || . /etc/default/faas
fi
exec /usr/lib/faas/faas "$@"
EOF
} >"$root/usr/bin/faas"
chmod 755 "$root/usr/bin/faas"
put 644 deploy/faas.service lib/systemd/system/faas.service
put 644 deploy/faas.socket lib/systemd/system/faas.socket
put 644 deploy/faas.sysusers usr/lib/sysusers.d/faas.conf
put 644 deploy/faas.tmpfiles usr/lib/tmpfiles.d/faas.conf
for file in hello.php info.php resize.wasm ping.wasm; do
    put 644 "functions/$file" "usr/share/faas/functions/$file"
done
put 755 functions/env.sh usr/share/faas/functions/env.sh
for file in README.md docs/*.md deploy/nginx.conf deploy/haproxy-tls.cfg deploy/Caddyfile; do
    put 644 "$file" "usr/share/doc/faas/$(basename "$file")"
done
mkdir -p "$root/etc/default"
cat >"$root/etc/default/faas" <<EOF
# Settings of the function platform, such as FAAS_WORKERS=8. /usr/lib/faas/gateway --help lists them.
EOF

cat >"$root/DEBIAN/control" <<EOF
Package: faas
Version: $version
Architecture: $architecture
Maintainer: The maintainers <maintainers@example.org>
Section: httpd
Priority: optional
Depends: libc6 (>= 2.36), libgcc-s1, $php (>= $php_version), adduser, init-system-helpers (>= 1.54)
Recommends: sqlite3
Suggests: nginx-light | caddy | haproxy
Installed-Size: $(du -sk "$root" | cut -f 1)
Description: function platform for one machine
 Runs functions in PHP, WebAssembly or any program over HTTP, each call in a
 process and a sandbox of its own. A SQLite file holds the routes, and a
 change of a row is in service within a moment.
EOF
echo /etc/default/faas >"$root/DEBIAN/conffiles"

cat >"$root/DEBIAN/postinst" <<'EOF'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    getent passwd faas >/dev/null ||
        adduser --system --group --quiet --no-create-home --home /nonexistent --gecos Functions faas
    install -d -m 711 /var/lib/faas
    install -d -m 700 /var/lib/faas/registry
    for unit in faas.socket faas.service; do
        deb-systemd-helper unmask "$unit" >/dev/null || true
        deb-systemd-helper enable "$unit" >/dev/null || true
    done
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload || true
        deb-systemd-invoke start faas.socket >/dev/null || true
        deb-systemd-invoke restart faas.service >/dev/null || true
    fi
fi
EOF
cat >"$root/DEBIAN/prerm" <<'EOF'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop faas.service faas.socket >/dev/null || true
fi
EOF
cat >"$root/DEBIAN/postrm" <<'EOF'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload || true
fi
if [ "$1" = purge ]; then
    rm -rf /var/lib/faas /run/faas
    if command -v deb-systemd-helper >/dev/null; then
        deb-systemd-helper purge faas.socket faas.service >/dev/null || true
    fi
fi
EOF
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"

cat >"$root/usr/share/doc/faas/copyright" <<EOF
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: faas

Files: *
Copyright: The maintainers
License: other
 Built from the sources by whoever has this package; no license is granted to
 others by it.
EOF
printf 'faas (%s) unstable; urgency=medium\n\n  * Built from the sources by deploy/deb.sh.\n\n -- The maintainers <maintainers@example.org>  %s\n' \
    "$version" "$(LC_ALL=C date -u -R)" | gzip -9n >"$root/usr/share/doc/faas/changelog.Debian.gz"
gzip -9n "$root/usr/share/doc/faas/OPERATING.md"
mkdir -p "$root/usr/share/lintian/overrides"
cat >"$root/usr/share/lintian/overrides/faas" <<EOF
# SQLite is built in, at the version that the registry's code is tested with.
faas: embedded-library *
# A fork server is forked for each call: without libraries that is faster.
faas: statically-linked-binary *faas-wasm*
EOF
(cd "$root" && find etc lib usr -type f -exec md5sum {} + >DEBIAN/md5sums)

package=$place/faas_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "deb.sh: made $package"
