#!/bin/sh
# Builds faas-php and tests it by a worker's side of the protocol: no gateway, no worker.
#   test.sh [NAME]...   only tests whose names hold one of these
set -eu
cd "$(dirname "$(readlink -f "$0")")"
command -v python3 >/dev/null || { echo "test.sh: python3 is missing (apt install python3)" >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
./build.sh "$folder/faas-php"
PYTHONDONTWRITEBYTECODE=1 python3 tests/run.py "$folder/faas-php" "$@"
