#!/usr/bin/env bash
# Compile the driver that has no device, libcuda.so.1, into a folder: stub_driver.sh FOLDER
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
# Without the C library it loads on every Linux, whatever the age of the machine that compiles it.
"${CC:-cc}" -std=c11 -O2 -Wall -Wextra -Wpedantic -Werror -shared -fPIC -nostdlib -fno-stack-protector \
  -Wl,-soname,libcuda.so.1 -Wl,-z,defs -o "$1/libcuda.so.1" "$(dirname "$0")/stub_driver.c"
