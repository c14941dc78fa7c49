#!/usr/bin/env bash
# Learns from a day's clicks, and switches a shop's search to a better model.
#
#   launch/daily.sh --folder=SHOP --events=EVENTS --catalog=TABLE
#                   [--model=MODEL] [--day=2026-01-31] [--tolerance=0.01]
#                   [--dry-run] [-- TRAINING OPTIONS]
#   launch/daily.sh --folder=SHOP --roll-back [--dry-run]
#
# Run it once a day. EVENTS is the folder in which the service records searches
# and clicks; TABLE is a sample table, whose documents are the catalog.
#
# The first run builds SHOP/index with MODEL, a workdir or a bundle; serve it
# with `python -m mixer_jax.serve --index=SHOP/index --events=EVENTS`, which
# creates EVENTS, before the next run. Each run adds the catalog's new and
# changed documents to the index. If there are new clicks, it then finds
# categories, which keep their IDs; continues the training of the current model
# on nine tenths of them; compares both models on the queries of the others;
# and, unless the new model is significantly worse (--tolerance is by how much
# the MAP may decrease), embeds the index again with the new model. A running
# service switches to it without an interruption.
# SHOP/days/DATE holds the day's results; --day is by default today, in UTC.
#
# --roll-back returns the index to the model and the items before the last
# switch, up to three times in a row. Run the script again to resume after
# Ctrl-C or SIGTERM (exit code 75). --dry-run prints every command and runs
# none.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

known="--folder=SHOP, --events=EVENTS, --catalog=TABLE, --model=MODEL, "
known+="--day=DATE, --tolerance=SHARE, --roll-back, "
folder="" events="" catalog="" model="" roll_back=false
day="" tolerance=""
options=()
while (($#)); do
  case $1 in
    --folder=?*) folder=${1#*=} ;;
    --events=?*) events=${1#*=} ;;
    --catalog=?*) catalog=${1#*=} ;;
    --model=?*) model=${1#*=} ;;
    --day=?*) day=${1#*=} ;;
    --tolerance=?*) tolerance=${1#*=} ;;
    --roll-back) roll_back=true ;;
    --)
      shift
      break
      ;;
    *) options+=("$1") ;;
  esac
  shift
done
read_options ${options[@]+"${options[@]}"}
if [[ -z $folder ]]; then reject "--folder=SHOP is missing."; fi
for name in folder events; do
  if [[ ${!name} == *://* ]]; then
    reject "--$name=${!name} is not a local path; choose a folder on this" \
      "machine."
  fi
done
python=$venv/bin/python
index=$folder/index

if $roll_back; then
  for name in events catalog model day tolerance; do
    if [[ -n ${!name} ]]; then
      reject "--roll-back does not use --$name; remove it."
    fi
  done
  if (($#)); then
    reject "--roll-back does not use training options; remove those after --."
  fi
  make_environment
  run "$python" -m mixer_jax.index roll-back --index="$index"
  exit
fi

if [[ -z $events ]]; then reject "--events=EVENTS is missing."; fi
if [[ -z $catalog ]]; then reject "--catalog=TABLE is missing."; fi
day=${day:-$(date -u +%F)}
tolerance=${tolerance:-0}

# An interrupted build leaves a record that names no file.
is_built() {
  [[ -e $index/index.json ]] && ! grep -qs '"items": ""' "$index/index.json"
}

# Prints the number of days in the month of a date, 0 for an invalid month.
count_days() {
  local year=$((10#${1:0:4}))
  case ${1:5:2} in
    02) echo $((28 + (year % 4 == 0 && year % 100 != 0 || year % 400 == 0))) ;;
    04 | 06 | 09 | 11) echo 30 ;;
    01 | 03 | 05 | 07 | 08 | 10 | 12) echo 31 ;;
    *) echo 0 ;;
  esac
}

if [[ ! $day =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ || ${day:8} == 00 ]] ||
  ((10#${day:8} > $(count_days "$day"))); then
  reject "--day=$day is not a date such as 2026-01-31."
fi
if [[ $day > $(date -u +%F) ]]; then
  reject "--day=$day is in the future; choose a day up to today (UTC)."
fi
if [[ ! $tolerance =~ ^(0|0?\.[0-9]+|1)$ ]]; then
  reject "--tolerance=$tolerance is not a number from 0 to 1."
fi
if is_built; then
  if [[ ! -d $events ]]; then
    reject "--events=$events: there is no such folder; correct the path, or" \
      "start the service with this option, which creates the folder."
  fi
elif [[ -z $model ]]; then
  reject "there is no index in $index yet; name its first model with" \
    "--model=MODEL, a workdir or a bundle."
fi
today=$folder/days/$day

make_environment

# Runs a command unless the file that it writes exists: `step FILE COMMAND`.
step() {
  local file=$1
  shift
  if [[ ! -e $file ]]; then run "$@"; fi
}

say "1/6 Updating the index with the catalog"
if is_built; then
  run "$python" -m mixer_jax.index add --index="$index" --table="$catalog"
else
  run "$python" -m mixer_jax.index build --workdir="$model" \
    --table="$catalog" --out="$index"
fi
if [[ ! -d $events ]] && ! $dry_run; then
  say "Done. Start the service, which records searches and clicks:"
  printf '%s\n' "$(quoted "$python" -m mixer_jax.serve --index="$index" \
    --events="$events")" || true
  exit
fi

say "2/6 Reading the clicks until $day"
step "$today/clicks.parquet" "$python" -m mixer_jax.daily begin \
  --folder="$folder" --events="$events" --table="$catalog" --day="$day"
if [[ ! -e $today/clicks.parquet ]] && ! $dry_run; then
  say "Done. The index is up to date; there is nothing to learn."
  exit
fi

say "3/6 Finding categories, which keep their IDs"
previous=()
if [[ -e $today/previous ]]; then
  previous=("--previous=$today/previous/found.csv")
fi
step "$today/found.csv" "$python" -m mixer_jax.categorize --log="$today" \
  --out="$today" --hold-out ${previous[@]+"${previous[@]}"}

say "4/6 Training, starting from the current model"
step "$today/comparison.json" "$python" -m mixer_jax.main \
  --config="configs/daily.py:$today/current" --workdir="$today/model" \
  --config.data.table="$today/found.csv" "$@"

say "5/6 Comparing both models on held-out categories"
step "$today/comparison.json" "$python" -m mixer_jax.compare \
  --current="$today/current" --workdir="$today/model" \
  --table="$today/found.csv" --tolerance="$tolerance" \
  --out="$today/comparison.json"

say "6/6 Switching the index, unless the new model is worse"
run "$python" -m mixer_jax.daily decide --folder="$folder" --day="$day"

say "Done. To undo the last switch:"
printf '%s\n' \
  "$(quoted launch/daily.sh --folder="$folder" --roll-back)" || true
