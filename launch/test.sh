#!/usr/bin/env bash
# Installs into an environment of its own, checks the style, runs the tests; then the quick ones again with the newest Python and jax here.
#   PYTHON=python3.12  the first interpreter, else the first found
#   QUICK=1  leave out slow tests    LONG=1  add the long ones, as before a release    SECOND=0  leave out the second stack
set -euo pipefail
cd "$(dirname "$0")/.."
say() { echo "[$(date +%H:%M:%S)] $*"; }
is_new() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

install() { # interpreter, environment
    say "installing into $2 with $("$1" --version)"
    "$1" -m venv "$2"
    "$2/bin/pip" install -qq --disable-pip-version-check --no-compile --upgrade --upgrade-strategy eager -e ".[test]"
    "$2/bin/python" -c 'import flax, jax, numpy; print("jax", jax.__version__, "flax", flax.__version__, "numpy", numpy.__version__)'
}

newest() { # an interpreter newer than $python, also where pyenv keeps it unselected
    for version in 3.13 3.12; do
        if ! "$python" -c "import sys; sys.exit(sys.version_info[:2] >= (3, ${version#3.}))"; then return; fi
        for found in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
            if "$found" -c 'import venv, ensurepip' 2>/dev/null; then echo "$found"; return; fi
        done
    done
}

tests() { # environment, pytest arguments
    "$1/bin/python" -m pytest tests -q --strict-markers --timeout 600 --durations 8 -n "$workers" --dist worksteal "${@:2}"
}

for python in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do ! is_new "$python" || break; done
is_new "$python" || { echo "error: ${PYTHON:-no interpreter found}: needs Python 3.11 or newer, set PYTHON=..." >&2; exit 2; }
workers=$("$python" -c 'import os; print(max(2, min(8, os.cpu_count() or 2)))')
install "$python" .venv-test
say "style"
.venv-test/bin/ruff check .
.venv-test/bin/ruff format --check .
second=$([ "${SECOND:-1}" = 0 ] || newest)
if [ -n "$second" ]; then install "$second" .venv-test-newest & fi # which waits for the network, mostly
say "quick tests"
tests .venv-test -m "not slow"
if [ -n "$second" ]; then
    wait $!
    say "quick tests, second stack"
    tests .venv-test-newest -m "not slow"
elif [ "${SECOND:-1}" != 0 ]; then
    say "no second stack: no Python newer than $python found"
fi
if [ "${QUICK:-0}" = 0 ]; then
    say "slow tests"
    tests .venv-test -m "$([ "${LONG:-0}" = 0 ] && echo "slow and not long" || echo slow)"
fi
