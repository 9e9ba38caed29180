#!/usr/bin/env bash
# Check what is in a wheel, and run the tests of the wheel against it: check_wheel.sh WHEEL [PYTEST ARGUMENT...]
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 WHEEL [PYTEST ARGUMENT...]" >&2; exit 2; }
wheel="$(realpath -e "$1")"
shift
# shellcheck source=tools/ci/environment.sh
. "$(dirname "$0")/environment.sh"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${wheel}[test,gateway]"
packages="$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
python prepare_binaries.py verify "$packages/llcuda/binaries"

# With the wheel's own binaries staged, the test of an editable install compiles nothing.
if [ ! -e src/llcuda/binaries ]; then
  trap 'python prepare_binaries.py unstage; rm -rf "$work"' EXIT
  python prepare_binaries.py stage --from "$packages/llcuda/binaries"
fi
PATH="$work/venv/bin:$PATH" LLCUDA_TEST_WHEEL="$wheel" python -m pytest "${@:-tests/wheel}"
