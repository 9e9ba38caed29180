#!/usr/bin/env bash
# Install the programs that tests run besides what pip brings: as root, or with sudo where it asks for no password.
set -euo pipefail

programs=(
  chromium
  curl
  docker-registry
  ip:iproute2
  nginx:nginx-light
  prometheus
  skopeo
  strace
)

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)
install_package() {
  command -v apt-get >/dev/null || return 1
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$1")
  { "${as_root[@]}" "${install[@]}" || { "${as_root[@]}" apt-get update -q && "${as_root[@]}" "${install[@]}"; }; } \
    </dev/null >/dev/null 2>&1
}

# A program whose package has another name is PROGRAM:PACKAGE.
for program in "${programs[@]}"; do
  command -v "${program%:*}" >/dev/null || install_package "${program#*:}" || echo "${program%:*} is not to be had" >&2
done
