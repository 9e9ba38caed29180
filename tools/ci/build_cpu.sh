#!/usr/bin/env bash
# Build everything but the CUDA backends, for every x86-64 CPU, with the page /chat, and pack it: build_cpu.sh OUTPUT.tar
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 OUTPUT.tar" >&2; exit 2; }
output="$(realpath -m "$1")"
# shellcheck source=tools/ci/environment.sh
. "$(dirname "$0")/environment.sh"

folder=build/ci-cpu
python prepare_binaries.py build --profile all --web-ui on --build-dir "$folder"
python prepare_binaries.py verify "$folder/install"
pack_folder "$folder/install" "$output"
