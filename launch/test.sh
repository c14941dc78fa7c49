#!/usr/bin/env bash
# Runs every check and test, in the environment of the quickstart.
#
#   launch/test.sh [--dry-run]
#
# Makes .venv unless it is there, checks the style, then runs all tests, slow
# ones too. PyTorch is installed for the originals that they compare with,
# Apache Beam for what runs on it and, on Linux with x86-64, the TPU's compiler.
# --dry-run prints every command and runs none.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
read_options "$@"

make_environment

# Kept apart from the packages: with it among them, JAX looks for a TPU in every
# command, and prints that there is none.
if [[ $(uname -sm) == "Linux x86_64" ]]; then
  export TPU_LIBRARY_PATH=$root/$venv/$libtpu/libtpu/libtpu.so
  if [[ ! -f $TPU_LIBRARY_PATH ]]; then
    say "Installing the TPU's compiler (once; 213 MB)"
    run "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --no-deps --target "$venv/$libtpu" "$libtpu"
  fi
fi

# Kept apart too: with it among the packages, every command loads it.
torch=torch==2.13.0
if [[ ! -f $venv/$torch/torch/version.py ]]; then
  say "Installing PyTorch, for the originals of our encoders (once)"
  run "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --target "$venv/$torch" "$torch"
fi

# And this: its pins hold back pillow, protobuf, pyarrow and python-dateutil.
beam=apache-beam==2.77.0
if [[ ! -f $venv/$beam/apache_beam/version.py ]]; then
  say "Installing Apache Beam, for the aggregation of click events (once)"
  run "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-compile --target "$venv/$beam" "$beam"
fi

say "Checking the style"
run "$venv/bin/ruff" check .
run "$venv/bin/ruff" format --check .

say "Running the tests"
# Most tests compile, which keeps one core busy. In their own order, the longest
# files do not come last, when the other cores have nothing left to do.
run "$venv/bin/python" -m pytest --numprocesses=auto --maxprocesses=4 \
  --dist=loadfile --no-loadscope-reorder
