#!/usr/bin/env bash
# Try a wheel in a bare container that has no network, no compiler and no rights: without a driver, and with one that
# has no device. try_in_container.sh IMAGE WHEEL PACKAGES STUB_DRIVER, the last two being folders
set -euo pipefail
[ $# = 4 ] || { echo "usage: $0 IMAGE WHEEL PACKAGES STUB_DRIVER" >&2; exit 2; }
image="$1"
wheel="$(realpath -e "$2")"
packages="$(realpath -e "$3")"
driver="$(realpath -e "$4")"
scripts="$(realpath -e "$(dirname "$0")")"

try() {
  docker run --rm --network none --user 65534:65534 --cap-drop ALL --read-only --tmpfs /tmp:exec,mode=1777 \
    --volume "$scripts:/scripts:ro" --volume "$(dirname "$wheel"):/wheel:ro" --volume "$packages:/packages:ro" \
    --volume "$driver:/driver:ro" \
    "$image" python3 /scripts/try_wheel.py "/wheel/$(basename "$wheel")" --packages /packages "$@"
}

echo "$image, without a driver"
try
echo "$image, with a driver that has no device"
try --stub-driver /driver
