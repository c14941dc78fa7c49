#!/usr/bin/env bash
# Runs every check and test, in the environment of the quickstart.
#
#   launch/test.sh [--dry-run]
#
# Makes .venv unless it is there, checks the style, then runs all tests, slow
# ones too. --dry-run prints every command and runs none.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
read_options "$@"

make_environment

say "Checking the style"
run "$venv/bin/ruff" check .
run "$venv/bin/ruff" format --check .

say "Running the tests"
run "$venv/bin/python" -m pytest
