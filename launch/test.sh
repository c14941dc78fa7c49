#!/usr/bin/env bash
# Runs every check and test, in the environment of the quickstart.
#
#   launch/test.sh [--dry-run]
#
# Creates .venv unless it exists, checks the style, then runs all tests,
# including slow ones. Also installs PyTorch, for the reference implementations
# that tests compare with; Apache Beam, for the pipelines; Sphinx, for the
# documentation; Playwright, for the tests of the search page, which need a
# Chromium and are skipped without one; and on Linux with x86-64, the TPU
# compiler. If another Python is found for which requirements.txt has other
# versions of JAX, the fast tests of models, proxies and training also run with
# these versions. --dry-run prints every command and runs none. Ctrl-C or
# SIGTERM ends all started processes (exit code 75).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
read_options "$@"

make_environment

# Installs the package $1 into a separate folder, atomically. The remaining
# arguments are passed to pip.
install_apart() {
  local package=$1
  shift
  if [[ -d $venv/$package ]]; then return; fi
  run rm -rf "$venv/$package.draft"
  run "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-compile "$@" --target "$venv/$package.draft" "$package"
  run mv "$venv/$package.draft" "$venv/$package"
}

make_other_environment() {
  venv=.venv/other
  PYTHON=$other
  make_environment
}

# In parallel, because unpacking a package keeps one core busy.
install_all_apart() {
  local pid pids=() code=0
  if [[ -n $other ]]; then
    make_other_environment &
    pids+=($!)
  fi
  # In .venv, libtpu would make JAX look for a TPU in every command, and print
  # that there is none.
  if [[ $(uname -sm) == "Linux x86_64" ]]; then
    install_apart "$libtpu" --no-deps &
    pids+=($!)
  fi
  # In .venv, every command would import torch.
  install_apart torch==2.13.0 &
  pids+=($!)
  # In .venv, the pins of Beam would hold back pillow, protobuf, pyarrow and
  # python-dateutil.
  install_apart apache-beam==2.77.0 &
  pids+=($!)
  # Drives the browser; its own browsers are not downloaded.
  install_apart playwright==1.65.2 &
  pids+=($!)
  # Only needed for the documentation.
  install_apart furo==2025.12.19 myst-parser==5.2.0 sphinx==9.0.4 &
  pids+=($!)
  for pid in "${pids[@]}"; do wait "$pid" || code=1; done
  return "$code"
}

other=$(find_other_python) || true
say "Installing packages into separate folders (once; about two minutes)"
lock_environment "$venv/bin/python"
guarded as_one_group install_all_apart
unlock_environment
if [[ $(uname -sm) == "Linux x86_64" ]]; then
  export TPU_LIBRARY_PATH=$root/$venv/$libtpu/libtpu/libtpu.so
fi

say "Checking the style"
run "$venv/bin/ruff" check .
run "$venv/bin/ruff" format --check .

say "Running the tests"
# Three workers keep two cores busy, because many tests wait for processes that
# they started. Keep pytest's order of the files: reordering would put the
# longest files last, while the other cores are idle.
# After a worker has crashed, pytest-xdist may wait for its tests forever.
stop_signal=INT # On SIGINT, pytest ends the processes of the tests.
run_tests() {
  run "$venv/bin/python" -m pytest --numprocesses=3 --dist=loadfile \
    --no-loadscope-reorder --max-worker-restart=0 "$@"
}
run_tests

if [[ -n $other ]]; then
  say "Running tests with other versions of Python and JAX"
  venv=.venv/other
  run_tests -m "not slow" tests/models tests/proxies tests/training
else
  say "No other Python found: tests with other versions of JAX were not run."
fi
