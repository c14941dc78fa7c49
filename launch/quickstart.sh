#!/usr/bin/env bash
# From a click log to ranked answers, on emoji, in minutes on two CPU cores.
#
#   launch/quickstart.sh [--dry-run] [--smoke]
#
# Creates .venv, draws the emoji, simulates a click log, finds categories in it,
# trains the three stages, evaluates them on unseen categories, and writes
# runs/quickstart/report/index.html. Run it again to resume after Ctrl-C or
# SIGTERM (exit code 75). --dry-run prints every command and runs none. --smoke
# runs a minimal version in runs/smoke, only to show that it works.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

run=runs/quickstart
known="--smoke, "
config=configs/quickstart.py
few=()
options=()
for option in "$@"; do
  case $option in
    --smoke)
      run=runs/smoke
      config=configs/quickstart.py:smoke
      few=(--limit=48)
      ;;
    *) options+=("$option") ;;
  esac
done
read_options ${options[@]+"${options[@]}"}
python=$venv/bin/python

make_environment

say "1/6 Drawing the emoji of two vendors"
run "$python" -m mixer_jax.demo.emoji --out="$run/data" ${few[@]+"${few[@]}"}

say "2/6 Simulating a shop's click log"
run "$python" -m mixer_jax.demo.simulate \
  --table="$run/data/medium.csv" --out="$run/log"

say "3/6 Finding categories in the log and the catalog"
run "$python" -m mixer_jax.categorize --log="$run/log" --out="$run" \
  --truth="$run/data/medium.csv"

say "4/6 Training: three stages in a row"
run "$python" -m mixer_jax.main --config="$config" --workdir="$run"

say "5/6 Evaluating on unseen categories, with baselines"
run "$python" -m mixer_jax.evaluate --workdir="$run" --baselines \
  --stage=stage3

say "6/6 Writing the report"
run "$python" -m mixer_jax.report --workdir="$run"

say "Done. Open $run/report/index.html. To search the emoji by picture:"
build=(--workdir="$run/stage3" --table="$run/data/medium.csv")
printf '%s\n' \
  "$python -m mixer_jax.index build ${build[*]} --out=$run/index" \
  "$python -m mixer_jax.serve --index=$run/index" || true
