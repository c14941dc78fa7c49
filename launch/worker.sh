#!/usr/bin/env bash
# Starts and watches the process of one host in a run on several hosts.
#
#   launch/worker.sh setup [--extra=tpu] [--data=gs://...]
#   launch/worker.sh start [--name=NAME] -- COMMAND...
#   launch/worker.sh status|profile|stop|end [--name=NAME]
#   launch/worker.sh logs [--name=NAME] [--lines=100] [--follow]
#
# tpu_vm.sh and hosts.sh run it on every host. setup creates .venv, installs a
# newer Python if the host's is too old, and copies the data into data/. start
# runs COMMAND in the background with its output in runs/launch/NAME/log; NAME
# defaults to run. status prints "worker HOST:NAME" and running, exited CODE,
# stopped CODE, lost (its exit code was not recorded, e.g. after a reboot) or
# absent. stop sends SIGTERM, so that the run saves, and SIGKILL after
# --grace=600 seconds; end does the same, but does not mark the run as stopped.
# profile sends SIGUSR1. --dry-run prints every command and runs none.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

# Installs Python on hosts whose own is too old.
uv=uv==0.13.9
wanted_python=3.11 # a version with pins in requirements.txt
known="--name=NAME, --extra=tpu, --data=gs://..., --grace=SECONDS, --lines=N, "
known+="--follow, "

name=run
extra=""
data=""
grace=600
lines=100
follow=()
command=${1:-}
if (($#)); then shift; fi
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} && check_name --name "$name" ;;
    --extra=tpu) extra=tpu ;;
    --data=*) data=${1#*=} ;;
    --grace=*) grace=${1#*=} && check_number "$1" ;;
    --lines=*) lines=${1#*=} && check_number "$1" ;;
    --follow) follow=(--follow) ;;
    --)
      shift
      break
      ;;
    *) read_options "$1" ;;
  esac
  shift
done
state=runs/launch/$name

# Prints when a process began; nothing if it has ended. Process IDs are reused,
# but not with the same start time.
began() {
  local boot_id stat
  if [[ ! -r /proc/self/stat ]]; then
    LC_ALL=C ps -o lstart= -p "$1" 2>/dev/null || true
    return
  fi
  # Not ps: it prints a date, which changes when the clock is set.
  {
    boot_id=$(</proc/sys/kernel/random/boot_id)
    stat=$(<"/proc/$1/stat")
  } 2>/dev/null || return 0
  # The fields after the program's name, from the third on. Field 22 is the
  # start time in clock ticks since boot.
  read -ra stat <<<"${stat##*) }"
  echo "$boot_id ${stat[19]}"
}

# Sets $pid to the process in the state file $1; succeeds if it is running.
alive() { # FILE
  local since
  pid=""
  [[ -f $state/$1 ]] || return 1
  {
    read -r pid
    IFS= read -r since
  } <"$state/$1" || return 1
  [[ -n $since && $(began "$pid") == "$since" ]]
}

running() { alive process; }

named() { # PID FILE
  printf '%s\n%s\n' "$1" "$(began "$1")" | write "$state/$2"
}

write() { # FILE; atomically, from standard input
  cat >"$1.draft" && mv "$1.draft" "$1"
}

setup() {
  if [[ -n $data ]]; then
    need_program gcloud "it is needed to download the data"
  fi
  if ! find_python >/dev/null; then
    say "Python here is older than 3.11; installing $wanted_python"
    run python3 -m pip install --quiet --user "$uv"
    run python3 -m uv python install "$wanted_python"
    PYTHON=$(python3 -m uv python find "$wanted_python" || true)
  fi
  make_environment "$extra"
  if [[ -n $data ]]; then
    run mkdir -p data
    run gcloud storage rsync --recursive "$data" data
  fi
}

# Runs a command in the background and records its exit code; outlives the
# session that started it.
attend() {
  local code=0 child
  trap '' HUP INT QUIT
  named "$BASHPID" attendant || exit 1
  "$@" &
  child=$!
  if ! named "$child" process; then
    kill -KILL "$child"
    exit 1
  fi
  wait "$child" || code=$?
  echo "$code" | write "$state/exit"
}

start() {
  if ((!$#)); then reject "no COMMAND given; put it after --."; fi
  if $dry_run; then
    run "$@"
    return
  fi
  if [[ -z $(type -P "$1") ]]; then
    reject "program $1 not found; the current folder is $PWD."
  fi
  if running; then
    fail "process $pid of $name is still running; stop or end it first."
  fi
  make_folder "$state"
  rm -f "$state/process" "$state/attendant" "$state/exit" "$state/stopped"
  printf '\n%s + %s\n' "$(date '+%F %T')" "$(quoted "$@")" >>"$state/log" ||
    reject "cannot write to $root/$state."
  attend "$@" </dev/null >>"$state/log" 2>&1 &
  attendant=$!
  until [[ -f $state/process ]]; do
    if ! kill -0 "$attendant" 2>/dev/null; then
      reject "cannot write to $root/$state."
    fi
    sleep 0.02
  done
  status
}

status() {
  local ended=exited condition=absent
  # The attendant writes the exit code a moment after the process has ended, so
  # look for it once more after the attendant is gone.
  for _ in {1..600}; do
    if [[ ! -f $state/process ]]; then break; fi
    condition=running
    if running; then break; fi
    condition=lost
    if [[ -f $state/exit ]]; then break; fi
    if ! alive attendant; then break; fi
    sleep 0.05
  done
  if [[ $condition == lost && -f $state/exit ]]; then
    # Check only now, because the run may be stopped during the loop.
    if [[ -f $state/stopped ]]; then ended=stopped; fi
    condition="$ended $(<"$state/exit")"
  fi
  echo "worker $(uname -n):$name $condition"
}

# Sends the process a signal, unless it has ended.
send() { try kill "-$1" "$pid" 2>/dev/null || true; }

end() {
  local waited
  if running; then
    send TERM
    for ((waited = 0; waited < 10 * grace; waited++)); do
      if $dry_run || ! running; then break; fi
      sleep 0.1
    done
    if ! $dry_run && running; then
      send KILL
      while running; do sleep 0.1; done
    fi
  fi
  status
}

case $command in
  setup) setup ;;
  start) start "$@" ;;
  status) status ;;
  logs) run tail --lines="$lines" ${follow[@]+"${follow[@]}"} "$state/log" ;;
  profile) if running; then send USR1; else status; fi ;;
  stop)
    if ! $dry_run && running; then : >"$state/stopped"; fi
    end
    ;;
  end) end ;;
  --help | -h | --dry-run) read_options --help ;;
  *)
    reject "unknown subcommand '$command'; known: setup, start, status, logs," \
      "profile, stop, end."
    ;;
esac
