#!/usr/bin/env bash
# Put what a wheel needs for one version of Python into a folder: fetch_packages.sh WHEEL VERSION FOLDER
set -euo pipefail
[ $# = 3 ] || { echo "usage: $0 WHEEL VERSION FOLDER" >&2; exit 2; }
exec python3 -m pip download --quiet --disable-pip-version-check --only-binary :all: \
  --python-version "$2" --dest "$3" "$1"
