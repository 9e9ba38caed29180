#!/usr/bin/env bash
# Make one wheel of what build_cpu.sh and build_backend.sh packed, and compile nothing: assemble.sh OUTPUT TAR...
# LLCUDA_PLATFORM is the platform that it must be good for (default: whatever the binaries allow).
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 OUTPUT TAR..." >&2; exit 2; }
output="$(realpath -m "$1")"
shift
mapfile -t archives < <(realpath -e "$@")
# shellcheck source=tools/ci/environment.sh
. "$(dirname "$0")/environment.sh"
limit=200000000
if [ -e src/llcuda/binaries ]; then
  echo "something is staged here already; remove it first: python prepare_binaries.py unstage" >&2
  exit 1
fi

work="$(mktemp -d)"
trap 'python prepare_binaries.py unstage; rm -rf "$work"' EXIT
sources=()
for archive in "${archives[@]}"; do
  folder="$work/$(basename "$archive" .tar)"
  mkdir "$folder"
  tar -xf "$archive" -C "$folder"
  sources+=(--from "$folder")
done

SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH
python prepare_binaries.py stage "${sources[@]}"
python -m pip wheel --quiet --no-deps --wheel-dir "$work/raw" . --config-settings=build-dir="$work/build"

# The driver's library comes with the driver, cuBLAS with a package of its own; neither may be copied into the wheel.
auditwheel repair --plat "${LLCUDA_PLATFORM:-auto}" --only-plat --wheel-dir "$work/repaired" \
  --exclude libcuda.so.1 --exclude 'libcublas.so.*' --exclude 'libcublasLt.so.*' "$work"/raw/llcuda-*.whl
# A repair that fails may leave the unrepaired wheel behind.
wheel="$(echo "$work"/repaired/llcuda-*manylinux*.whl)"
size="$(stat -c %s "$wheel")"
[ "$size" -le "$limit" ] || { echo "$(basename "$wheel") has $size bytes, more than $limit" >&2; exit 1; }

mkdir -p "$output"
rm -f "$output"/llcuda-*.whl
cp "$wheel" "$output/"
echo "$output/$(basename "$wheel"): $size bytes"
