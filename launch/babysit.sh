#!/usr/bin/env bash
# Restarts a command on this host until it finishes.
#
#   launch/babysit.sh [--workdir=DIR] [--max-restarts=10] [--backoff=10]
#                     [--stop-on=CODE] [--stop-at=TIME] [--dry-run] COMMAND...
#
# Restarts COMMAND when it is preempted after a save (exit code 75) or fails in
# any other way, but not after 0 (finished), 2 (wrong input) or the --stop-on
# code, and not once --stop-at, a time in seconds since 1970, has passed. It
# gives up after --max-restarts restarts in a row without progress. Progress is
# a later checkpoint in --workdir, which may be gs://...; without a workdir, it
# is exit code 75. --backoff is the number of seconds before the first restart;
# each wait is twice as long as the one before. On SIGTERM, SIGINT, SIGQUIT or
# SIGHUP, it sends SIGTERM to COMMAND, once, and ends; SIGUSR1 is passed on. The
# exit code is that of COMMAND. SIGTERM also ends a babysitter started by nohup
# or in the background of a script. --dry-run prints COMMAND without running it.
#
#   launch/babysit.sh --workdir=runs/stage2 .venv/bin/python \
#     -m mixer_jax.main --config=configs/stage2.py --workdir=runs/stage2

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=restarts.sh
source "$root/launch/restarts.sh"

known="--workdir=DIR, $known_restarts--stop-on=CODE, --stop-at=TIME, "
stop_on=""
stop_at=""
while (($#)); do
  case $1 in
    --workdir=*) workdir=${1#*=} ;;
    --stop-on=*) stop_on=${1#*=} && check_number "$1" ;;
    --stop-at=*)
      stop_at=${1#*=}
      if [[ ! $stop_at =~ ^[1-9][0-9]{0,11}$ ]]; then
        reject "$1 is not a time."
      fi
      ;;
    --)
      shift
      break
      ;;
    -*) read_restart_option "$1" || read_options "$1" ;;
    *) break ;;
  esac
  shift
done
if ((!$#)); then
  reject "no COMMAND given; for example, launch/babysit.sh launch/hosts.sh run."
fi
cd "$OLDPWD" # COMMAND's paths are relative to the caller's folder.
if [[ -z $(type -P "$1") ]]; then
  reject "program $1 not found; the current folder is $PWD."
fi

if $dry_run; then
  run "$@"
  exit
fi

stop_on_signals
remember_step
while true; do
  note "Starting: $(quoted "$@")"
  supervise "$@"
  if [[ $code == "$stop_on" ]] ||
    [[ -n $stop_at && $(date +%s) -ge $stop_at ]]; then
    exit "$code"
  fi
  restart_or_exit "$code"
done
