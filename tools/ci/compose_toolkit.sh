#!/usr/bin/env bash
# Make a folder that a CUDA backend can be built with, out of packages: compose_toolkit.sh 12|13 FOLDER
# For a machine without NVIDIA's installer, to check that a backend builds; releases are built in CUDA images.
#   13  this machine's nvcc 13 (its folder in CUDA_HOME, default /usr/local/cuda) and cuBLAS's headers from its wheel
#   12  CUDA 12.4 of Debian 13's non-free section, unpacked and not installed, and the newer libcu++ of its wheel;
#       it knows neither compression nor Blackwell
# Both are linked against the driver library's stub of CUDA 12.4, which has all that ggml-cuda calls. 3 GB, 2 minutes.
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 12|13 FOLDER" >&2; exit 2; }
version="$1"
mkdir -p "$2"
root="$(realpath -e "$2")"

# Debian packages of another suite, from the place that this machine's own come from.
fetch_debian() {
  local apt="$root/.apt" source
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/packages"
  source="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 /debian/)"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $source trixie non-free contrib main" >"$apt/sources"
  local options=(-q -o "Dir::Etc::SourceList=$apt/sources" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  (cd "$apt/packages" && apt-get "${options[@]}" download "$@")
  for package in "$apt"/packages/*.deb; do dpkg -x "$package" "$root/.debian"; done
  rm -rf "$apt"
}

fetch_wheel() {
  python3 -m pip download -q --no-deps --only-binary=:all: --dest "$root/.wheels" "$1"
  python3 -m zipfile -e "$root"/.wheels/*.whl "$root/.wheel"
  rm -rf "$root/.wheels"
}

link_common() { # the folders that CMake's FindCUDAToolkit looks into
  mkdir -p "$root/targets/x86_64-linux"
  ln -sfn ../../lib "$root/targets/x86_64-linux/lib"
  ln -sfn ../../include "$root/targets/x86_64-linux/include"
  ln -sfn lib "$root/lib64"
}

if [ "$version" = 13 ]; then
  home="$(realpath -e "${CUDA_HOME:-/usr/local/cuda}")"
  fetch_wheel nvidia-cublas==13.0.2.14
  fetch_debian nvidia-cuda-dev
  mkdir -p "$root/bin" "$root/lib/stubs"
  # nvcc looks for its parts beside itself, so bin is a folder of links and not a link.
  ln -sf "$home"/bin/* "$root/bin/"
  ln -sfn "$home/nvvm" "$root/nvvm"
  cp -rsn "$home/include" "$root/"
  ln -sf "$root"/.wheel/nvidia/cu13/include/* "$root/include/"
  ln -sf "$home"/lib*/lib* "$root/lib/"
  ln -sf "$root/.debian/usr/lib/x86_64-linux-gnu/stubs/libcuda.so" "$root/lib/stubs/"
elif [ "$version" = 12 ]; then
  fetch_wheel nvidia-cuda-cccl-cu12==12.6.77
  fetch_debian nvidia-cuda-toolkit nvidia-cuda-dev libcublas12 libcublaslt12 libcudart12 libnvvm4
  debian="$root/.debian/usr"
  mkdir -p "$root/bin" "$root/lib" "$root/nvvm/bin"
  ln -sf "$debian"/bin/* "$root/bin/"
  cp --remove-destination "$debian/lib/nvidia-cuda-toolkit/bin/nvcc" "$root/bin/nvcc"
  ln -sfn "$debian/lib/nvidia-cuda-toolkit/bin/crt" "$root/bin/crt"
  ln -sf "$debian/lib/nvidia-cuda-toolkit/bin/cicc" "$root/nvvm/bin/cicc"
  ln -sfn "$debian/lib/nvidia-cuda-toolkit/libdevice" "$root/nvvm/libdevice"
  cp -rsn "$debian/include" "$root/"
  cp -rs --remove-destination "$root"/.wheel/nvidia/cuda_cccl/include/* "$root/include/"
  ln -sf "$debian"/lib/x86_64-linux-gnu/* "$root/lib/"
  # Debian's names absolute places.
  cat >"$root/bin/nvcc.profile" <<'END'
TOP              = $(_HERE_)/..
CICC_PATH        = $(TOP)/nvvm/bin
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH            += $(CICC_PATH):$(_HERE_):
INCLUDES        +=  "-I$(TOP)/$(_TARGET_DIR_)/include" $(_SPACE_)
LIBRARIES        =+ $(_SPACE_) "-L$(TOP)/$(_TARGET_DIR_)/lib$(_TARGET_SIZE_)/stubs" "-L$(TOP)/$(_TARGET_DIR_)/lib$(_TARGET_SIZE_)"
END
else
  echo "$0: $version is neither 12 nor 13" >&2
  exit 2
fi
link_common
"$root/bin/nvcc" --version | tail -n 2
echo "$root"
