#!/usr/bin/env bash
# Make an image of Enterprise Linux 8, whose glibc is that of manylinux_2_28, ready to build: its newer compiler, Python,
# and the Node.js that builds the page /chat; the one that it comes with is too old.
set -euo pipefail
if ! command -v dnf >/dev/null; then
  echo "prepare_image.sh: there is no dnf, so this is not such an image; nothing is changed" >&2
  exit 0
fi
dnf module enable -y -q nodejs:22 >&2
dnf install -y -q nodejs npm gcc-toolset-13-gcc gcc-toolset-13-gcc-c++ gcc-toolset-13-binutils python3.12 python3.12-pip tar >&2
