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

# Installs the package $1 into a folder of its own, unless the file $2 is there.
# What follows are options for pip.
install_apart() {
  local package=$1 file=$2
  shift 2
  if [[ ! -f $venv/$package/$file ]]; then
    run "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --no-compile "$@" --target "$venv/$package" "$package"
  fi
}

# All at once, as a package keeps one core busy with unpacking.
say "Installing what is kept apart from the packages (once; about a minute)"
installations=()
# With it among the packages, JAX looks for a TPU in every command, and prints
# that there is none.
if [[ $(uname -sm) == "Linux x86_64" ]]; then
  export TPU_LIBRARY_PATH=$root/$venv/$libtpu/libtpu/libtpu.so
  install_apart "$libtpu" libtpu/libtpu.so --no-deps &
  installations+=($!)
fi
# With it among the packages, every command loads it.
install_apart torch==2.13.0 torch/version.py &
installations+=($!)
# Its pins hold back pillow, protobuf, pyarrow and python-dateutil.
install_apart apache-beam==2.77.0 apache_beam/version.py &
installations+=($!)
for installation in "${installations[@]}"; do wait "$installation"; done

say "Checking the style"
run "$venv/bin/ruff" check .
run "$venv/bin/ruff" format --check .

say "Running the tests"
# Three keep two cores busy: many tests wait for processes that they started. In
# their own order, the longest files do not come last, when the other cores have
# nothing left to do.
run "$venv/bin/python" -m pytest --numprocesses=3 --dist=loadfile \
  --no-loadscope-reorder
