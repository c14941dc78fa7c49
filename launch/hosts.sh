#!/usr/bin/env bash
# Runs the training, or another command, on several hosts, GPU or CPU, over ssh.
#
#   HOSTS="a b c" CONFIG=configs/stage2.py WORKDIR=gs://my-bucket/runs/stage2 \
#     launch/hosts.sh run [--dry-run] [-- --config.KEY=VALUE ...]
#   HOSTS="a b c" COMMAND=embed launch/hosts.sh run -- --workdir=... --out=...
#   HOSTS="a b c" launch/hosts.sh status|logs|profile|stop
#
# run starts a process on every host unless the run has already started, follows
# the processes until they end, and exits with the run's exit code.
# launch/babysit.sh launch/hosts.sh run restarts it after failures. SIGTERM or
# Ctrl-C makes the processes save and end. status prints the state of each host,
# logs [--host=HOST] shows a host's log, profile makes every host capture a
# profile, stop saves and ends the run. --dry-run prints every command and runs
# none.
#
# The first of HOSTS is the coordinator. The project, with its .venv, must be in
# the same folder on every host: DIRECTORY, by default the folder on this one.
# WORKDIR is gs://... or a folder that all hosts share, as over NFS; the
# training checks this. Optional: PORT=8476, the coordinator's port; NAME=run,
# to tell several runs apart; SSH_OPTIONS="-p 2222"; COMMAND=embed,
# evaluate, categorize or data.prepare, which gets the options after -- instead
# of CONFIG and WORKDIR.

# shellcheck disable=SC2153 # Variables are checked by name, in need().
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=restarts.sh
source "$root/launch/restarts.sh"

known="--host=HOST, --poll=SECONDS, "
one_host=""
poll=15 # seconds between checks of the hosts
max_unknown=40 # checks in a row that may fail to reach all hosts
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
if [[ $command == run ]]; then need_command; fi
check_needs
read -r -d '' -a hosts <<<"$HOSTS" || true # read returns 1 at the end of input.
count=${#hosts[@]}
if ((!count)); then reject "HOSTS lists no hosts."; fi
for host in "${hosts[@]}" ${one_host:+"$one_host"}; do
  check_name "host" "$host"
done
check_name NAME "${NAME:-run}"
check_number "PORT=${PORT:=8476}"
directory=${DIRECTORY:-$root}
split_words SSH_OPTIONS
ssh_options=(${words[@]+"${words[@]}"})
coordinator=${hosts[0]#*@}
if [[ $coordinator == *:* ]]; then coordinator="[$coordinator]"; fi # IPv6
coordinator+=:$PORT
need_program ssh "it is needed to connect to the hosts"

# Runs worker.sh on $host.
worker() {
  local subcommand=$1
  shift
  try ssh -o BatchMode=yes -o ConnectTimeout=20 \
    ${ssh_options[@]+"${ssh_options[@]}"} "$host" \
    "cd -- $(quoted "$directory") && $(quoted launch/worker.sh "$subcommand" \
      "--name=${NAME:-run}.$host" "$@")"
}

# Starts process $index on $host.
start() {
  local words=("${program[@]}")
  if ((count > 1)); then
    words+=("--coordinator=$coordinator" "--processes=$count"
      "--process=$index")
  fi
  worker start -- "${words[@]}" ${extra[@]+"${extra[@]}"}
}

# Runs a command for all hosts, in parallel unless this is a dry run. Returns 0
# on success, 2 if any host reports wrong input, and 1 otherwise.
everywhere() {
  local pids=() pid code=0 ended
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
    while true; do # A signal interrupts the wait, but not the command.
      ended=0
      wait "$pid" || ended=$?
      if ! kill -0 "$pid" 2>/dev/null; then break; fi
    done
    if ((ended == 2 || ended && !code)); then code=$((ended == 2 ? 2 : 1)); fi
  done
  return "$code"
}

# Prints the state of the run on all hosts. Runs in a subshell that ignores
# Ctrl-C, so that the output is not lost.
run_state() {
  trap '' INT
  (everywhere worker status || true) 2>/dev/null | verdict "$count"
}

# Ends the run on all hosts once one has failed, since the others wait for it.
# Updates $now, because another host's failure may take precedence.
end_everywhere() {
  local final
  if [[ $now != "exited "* || $now == "exited 0" ]]; then return; fi
  everywhere worker end --grace=60 || true
  final=$(run_state)
  if [[ $final == "exited "* ]]; then now=$final; fi
}

# Waits until the run ends on all hosts, and exits with its code.
follow() {
  local now unknown=0 notified=false
  while true; do
    if $told_to_stop && ! $notified; then
      note "Stopping: the run saves its state and ends."
      notified=true
      everywhere worker end || true
    fi
    now=$(run_state)
    case $now in
      running) unknown=0 ;;
      exited* | stopped*)
        end_everywhere
        note "The run ended: $(meaning "${now#* }")."
        exit "${now#* }"
        ;;
      *)
        unknown=$((unknown + 1))
        if ((unknown > max_unknown)); then
          fail "some hosts could not be reached, $unknown times in a row;" \
            "launch/hosts.sh status shows why."
        fi
        ;;
    esac
    pause "$poll"
  done
}

if [[ $command == run ]]; then
  set_program
  if $dry_run; then
    everywhere start
    everywhere worker status
    exit
  fi
  stop_on_signals
  now=$(run_state)
  if [[ $now == running ]]; then
    note "The run has already started; following it."
  else
    code=0
    everywhere start || code=$?
    if ((code)); then
      everywhere worker end --grace=60 || true
      if ((code == 2)); then reject "the run cannot be started; see above."; fi
      fail "the run could not be started on all hosts."
    fi
  fi
  follow
fi

if [[ $command == logs ]]; then
  host=${one_host:-${hosts[0]}}
  worker logs
else
  everywhere worker "$command"
fi
