#!/usr/bin/env bash
# Run one of these scripts in a container image, on this source: in_image.sh IMAGE SCRIPT ARGUMENTS...
# What it writes is in this folder afterwards, and belongs to whoever has called.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 IMAGE SCRIPT [ARGUMENT...]" >&2; exit 2; }
cd "$(dirname "$0")/../.."
image="$1"
shift

# The image has no git to ask.
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH

variables=()
for name in SOURCE_DATE_EPOCH LLCUDA_CACHE LLCUDA_CACHE_SIZE PIP_INDEX_URL PIP_EXTRA_INDEX_URL NPM_CONFIG_REGISTRY; do
  [ -z "${!name:-}" ] || variables+=(--env "$name")
done
status=0
docker run --rm --volume "$PWD:$PWD" --workdir "$PWD" "${variables[@]}" "$image" \
  bash -c 'set -e; tools/ci/prepare_image.sh; exec "$@"' bash "$@" || status=$?
docker run --rm --volume "$PWD:$PWD" "$image" chown -R "$(id -u):$(id -g)" "$PWD"
exit "$status"
