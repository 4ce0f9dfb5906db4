#!/usr/bin/env bash
# From a clone to pictures: installs anystep into an environment of its own, trains the shapes model, measures it at every number of steps.
#   PYTHON=python3.12  the interpreter, else the first found    CONFIG=smoke  another config    WORKDIR=demo  where the results go
set -euo pipefail
cd "$(dirname "$0")/.."
workdir=${WORKDIR:-demo}
say() { echo "[$(date +%H:%M:%S)] $*"; }

is_new() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

for python in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do ! is_new "$python" || break; done
is_new "$python" || { echo "error: ${PYTHON:-no interpreter found}: needs Python 3.11 or newer, set PYTHON=..." >&2; exit 2; }
say "installing into .venv-demo with $("$python" --version)"
"$python" -m venv .venv-demo
rm -rf build # setuptools would install modules that a former build left there
.venv-demo/bin/pip install -qq --disable-pip-version-check --no-compile . # most modules are never imported
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1} # XLA's CPU buffers in huge pages: a step takes a fifth less
say "training"
.venv-demo/bin/anystep train --config "${CONFIG:-shapes}" --workdir "$workdir"
say "measuring"
.venv-demo/bin/anystep evaluate --model "$workdir" --prompts 384
say "done in $((SECONDS / 60)) min $((SECONDS % 60)) s: pictures in $workdir/samples, the report in $workdir/report.png and report.json"
