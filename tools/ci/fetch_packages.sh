#!/usr/bin/env bash
# Put what a wheel needs into a folder, for the version of Python that is here: fetch_packages.sh WHEEL FOLDER
# (pip's --python-version would leave out what only an older Python needs.)
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 WHEEL FOLDER" >&2; exit 2; }
exec python3 -m pip download --quiet --disable-pip-version-check --only-binary :all: --dest "$2" "$1"
