#!/usr/bin/env bash
# A run on several hosts that ssh reaches, GPU or CPU; the first coordinates.
#
#   HOSTS="a b c" CONFIG=configs/stage2.py WORKDIR=gs://my-bucket/runs/stage2 \
#     launch/hosts.sh run [--dry-run] [-- --config.KEY=VALUE ...]
#   HOSTS="a b c" launch/hosts.sh status|logs|profile|stop
#
# run starts a process on every host, unless they run, follows them until they
# end, and ends as they do: launch/babysit.sh launch/hosts.sh run goes on after
# failures. SIGTERM or Ctrl-C makes them save and end. status says how each
# host is, logs [--host=HOST] shows a host's log, profile has each capture one,
# stop saves and ends the run. --dry-run prints every command and runs none.
#
# The project, with its .venv, is in the same folder on every host: DIRECTORY,
# by default where it is here. WORKDIR is gs://... or a folder that all hosts
# share, as over NFS; the training checks that. Also: PORT=8476, of the
# coordinator; NAME=run, to keep two runs apart; SSH_OPTIONS="-p 2222".

# shellcheck disable=SC2153 # Variables are checked by name, in need.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=restarts.sh
source "$root/launch/restarts.sh"

known="--host=HOST, --poll=SECONDS, "
one_host=""
poll=15 # seconds between looks at the hosts
most_unknown=40 # looks in a row that do not reach all hosts
command=${1:-}
if (($#)); then shift; fi
while (($#)); do
  case $1 in
    --host=*) one_host=${1#*=} ;;
    --poll=*) poll=${1#*=} && check_number "$1" ;;
    --)
      shift
      break
      ;;
    *) read_options "$1" ;;
  esac
  shift
done
extra=("$@")
case $command in
  run | status | logs | profile | stop) ;;
  --help | -h | --dry-run) read_options --help ;;
  *)
    reject "unknown subcommand '$command'; known: run, status, logs, profile," \
      "stop."
    ;;
esac

need HOSTS "the hosts, the coordinator first" '"a b c"'
if [[ $command == run ]]; then
  need CONFIG "the run's config" configs/stage2.py
  need WORKDIR "where its checkpoints go" gs://my-bucket/runs/stage2
fi
check_needs
read -r -a hosts <<<"$HOSTS"
count=${#hosts[@]}
directory=${DIRECTORY:-$root}
read -r -a ssh_options <<<"${SSH_OPTIONS:-}"
coordinator=${hosts[0]#*@}:${PORT:-8476}

# Runs worker.sh on $host.
worker() {
  local subcommand=$1
  shift
  run ssh -o BatchMode=yes -o ConnectTimeout=20 \
    ${ssh_options[@]+"${ssh_options[@]}"} "$host" \
    "cd $(quoted "$directory") && $(quoted launch/worker.sh "$subcommand" \
      "--name=${NAME:-run}.$host" "$@")"
}

# Starts the process of $host, which is number $index.
start() {
  local training=("$venv/bin/python" -m mixer_jax.main "--config=$CONFIG"
    "--workdir=$WORKDIR")
  if ((count > 1)); then
    training+=("--coordinator=$coordinator" "--processes=$count"
      "--process=$index")
  fi
  worker start -- "${training[@]}" ${extra[@]+"${extra[@]}"}
}

# Does something for all hosts at once, or in a row in a dry run. Its exit code
# is the number of hosts that it failed for.
everywhere() {
  local pids=() pid failures=0
  for index in "${!hosts[@]}"; do
    host=${hosts[index]}
    if $dry_run; then
      "$@"
    else
      "$@" &
      pids+=($!)
    fi
  done
  for pid in ${pids[@]+"${pids[@]}"}; do
    wait "$pid" || failures=$((failures + 1))
  done
  return $((failures < 255 ? failures : 255))
}

look() { (everywhere worker status || true) 2>/dev/null | verdict "$count"; }

# Ends the run on all hosts once one has failed, since they wait for it, and
# lets $now be what it is then: of two failures, it may be the other's.
settle() {
  local settled
  if [[ $now != "exited "* || $now == "exited 0" ]]; then return; fi
  everywhere worker end --grace=60 || true
  settled=$(look)
  if [[ $settled == "exited "* ]]; then now=$settled; fi
}

# Waits until the run ends on all hosts, and exits as it did.
follow() {
  local now unknown=0 asked=false
  while true; do
    if $told_to_stop && ! $asked; then
      note "Told to stop: the run saves and ends."
      asked=true
      everywhere worker end || true
    fi
    now=$(look)
    case $now in
      running) unknown=0 ;;
      exited* | stopped*)
        settle
        note "The run ended: $(meaning "${now#* }")."
        exit "${now#* }"
        ;;
      *)
        unknown=$((unknown + 1))
        if ((unknown > most_unknown)); then
          fail "not all hosts could be asked, $unknown times in a row;" \
            "launch/hosts.sh status shows why."
        fi
        ;;
    esac
    pause "$poll"
  done
}

if [[ $command == run ]]; then
  check_config
  if $dry_run; then
    everywhere start
    everywhere worker status
    exit
  fi
  stop_on_signals
  now=$(look)
  if [[ $now == running ]]; then
    note "The run goes on; following it."
  elif ! everywhere start; then
    everywhere worker end --grace=60 || true
    fail "the run could not be started on all hosts."
  fi
  follow
fi

if [[ $command == logs ]]; then
  host=${one_host:-${hosts[0]}}
  worker logs
else
  everywhere worker "$command"
fi
