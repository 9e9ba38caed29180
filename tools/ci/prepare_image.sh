#!/usr/bin/env bash
# Make an image of Enterprise Linux 8, whose glibc is that of manylinux_2_28, ready to build: its newer compiler, Python.
set -euo pipefail
if ! command -v dnf >/dev/null; then
  echo "prepare_image.sh: there is no dnf, so this is not such an image; nothing is changed" >&2
  exit 0
fi
dnf install -y -q gcc-toolset-13-gcc gcc-toolset-13-gcc-c++ gcc-toolset-13-binutils python3.12 python3.12-pip tar >&2
