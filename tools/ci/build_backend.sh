#!/usr/bin/env bash
# Build one CUDA backend and pack it: build_backend.sh TOOLKIT ARCHITECTURES OUTPUT.tar
# ARCHITECTURES is `release`, for every supported GPU, or a list such as `75-real`.
set -euo pipefail
[ $# = 3 ] || { echo "usage: $0 TOOLKIT ARCHITECTURES OUTPUT.tar" >&2; exit 2; }
toolkit="$(realpath -e "$1")"
architectures="$2"
output="$(realpath -m "$3")"
# shellcheck source=tools/ci/environment.sh
. "$(dirname "$0")/environment.sh"

folder="build/ci-$(basename "$output" .tar)"
python prepare_binaries.py build --profile none --cuda "$toolkit" --architectures "$architectures" \
  --jobs "$(count_jobs)" --build-dir "$folder"
python prepare_binaries.py verify "$folder/install"
pack_folder "$folder/install" "$output"
