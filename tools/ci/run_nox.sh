#!/usr/bin/env bash
# Run nox sessions with the python3 that is here: run_nox.sh SESSION...
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 SESSION..." >&2; exit 2; }
cd "$(dirname "$0")/../.."
[ -x build/nox/bin/nox ] || python3 -m venv --clear build/nox
build/nox/bin/python -m pip install --quiet --disable-pip-version-check nox
exec build/nox/bin/nox --sessions "$@"
