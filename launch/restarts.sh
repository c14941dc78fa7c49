# shellcheck shell=bash
#
# Sourced by the scripts that restart a run after it ended.
#
# A run's exit code decides: after 0 (finished) or 2 (wrong input) it is not
# restarted; after 75 (preempted, state saved) or any other code it is.
# Restarts are counted, and each waits twice as long as the one before; progress
# resets both. Progress is a checkpoint of a later step in the workdir, since
# restarts resume from it; if the workdir is unknown, it is exit code 75.

workdir="" # its checkpoints show progress
max_restarts=10 # in a row without progress
backoff=10 # seconds before the first restart
max_backoff=600 # seconds before a restart

restarts=0
reached=0

note() { printf '%s %s\n' "$(date '+%F %T')" "$*" || true; }

# Reads the options shared by the scripts that restart runs.
# shellcheck disable=SC2034 # Those scripts use it.
known_restarts="--max-restarts=N, --backoff=SECONDS, "
read_restart_option() {
  case $1 in
    --max-restarts=*) max_restarts=${1#*=} ;;
    --backoff=*) backoff=${1#*=} ;;
    *) return 1 ;;
  esac
  check_number "$1"
}

# Prints the step of a workdir's last checkpoint. For a curriculum, which has a
# folder per stage, it is the sum over the stages.
latest_step() {
  local folder=${1%/} paths
  trap '' INT # Ctrl-C must not end this subshell.
  if [[ $folder == gs://* ]]; then
    # Two commands, because gcloud lists nothing if one pattern fails.
    paths=$(
      gcloud storage ls "$folder/checkpoints/" 2>/dev/null || true
      gcloud storage ls "$folder/*/checkpoints/" 2>/dev/null || true
    )
  else
    paths=$(printf '%s\n' "$folder"/checkpoints/* "$folder"/*/checkpoints/*)
  fi
  awk -F/ '
    { sub(/\/$/, ""); $0 = $0 }
    # A checkpoint that is being saved has a name that is not a number.
    $NF ~ /^[0-9]+$/ {
      stage = $0
      sub(/\/[0-9]+$/, "", stage)
      if ($NF > last[stage]) last[stage] = $NF + 0
    }
    END { for (stage in last) sum += last[stage]; print sum + 0 }
  ' <<<"$paths"
}

# shellcheck disable=SC2034,SC2154 # Defined in supervise.sh.
pause() {
  local code stop_signal=TERM # Shadow those of the run.
  if ! $told_to_stop; then supervise sleep "$1"; fi
}

meaning() {
  case $1 in
    0) printf 'it finished' ;;
    2) printf 'its input is wrong, which a restart does not fix' ;;
    70) printf 'a process hung, and its watchdog ended it' ;;
    75) printf 'it was preempted, and its state is saved' ;;
    *) printf 'it crashed or was killed' ;;
  esac
}

# Remembers the last step before the run is first started.
remember_step() {
  local reason=""
  if [[ $workdir == gs://* ]]; then
    if [[ -z $(type -P gcloud) ]]; then reason="gcloud is not installed"; fi
    # gcloud cannot escape wildcards.
    if [[ $workdir == *[][*?]* ]]; then reason="it contains a wildcard"; fi
  fi
  if [[ -n $reason ]]; then
    note "The checkpoints in $workdir cannot be listed: $reason. Only exit" \
      "code 75 counts as progress."
    workdir=""
  fi
  if [[ -n $workdir ]]; then reached=$(latest_step "$workdir"); fi
}

progressed() {
  local step
  if [[ -z $workdir ]]; then
    [[ $1 == 75 ]]
    return
  fi
  step=$(latest_step "$workdir")
  if ((step <= reached)); then return 1; fi
  reached=$step
  note "It reached step $step."
}

# Handles the end of a run; $1 is its exit code, $2 names what ran. Exits with
# that code if it is not to be restarted; otherwise returns after the wait.
restart_or_exit() {
  local code=$1 subject=${2:-The run} seconds
  note "$subject ended with exit code $code: $(meaning "$code")."
  if [[ $code == 0 || $code == 2 ]] || $told_to_stop; then exit "$code"; fi
  if progressed "$code"; then restarts=0; fi
  if ((restarts >= max_restarts)); then
    note "Giving up after $restarts restarts in a row without progress. The" \
      "log shows the cause; once it is fixed, the same command resumes the run."
    exit "$code"
  fi
  seconds=$((backoff << (restarts < 10 ? restarts : 10)))
  seconds=$((seconds < max_backoff ? seconds : max_backoff))
  restarts=$((restarts + 1))
  note "Restart $restarts in $seconds s (at most $max_restarts in a row" \
    "without progress)."
  pause "$seconds"
  if $told_to_stop; then exit "$code"; fi
}

# Reads the status lines of worker.sh on $1 hosts, and prints the state of the
# whole run: running, unknown (not all hosts answered), absent, exited CODE or
# stopped CODE. The run has failed once one host has, since the others wait for
# it. While some hosts are still saving after a 75, it is running.
verdict() {
  awk -v hosts="$1" '
    $1 != "worker" { next }
    { asked++; count[$3]++ }
    $3 == "lost" { failed = failed ? failed : 1 }
    $3 == "exited" || $3 == "stopped" {
      if ($4 == 2) wrong = 1
      else if ($4 == 75) saved = 1
      else if ($4 > failed) failed = $4
    }
    END {
      code = wrong ? 2 : failed ? failed : saved ? 75 : 0
      if (count["stopped"]) print count["running"] ? "running" : "stopped " code
      else if (wrong || failed) print "exited " code
      else if (asked < hosts) print "unknown"
      else if (count["running"]) print "running"
      else if (count["absent"]) print "absent"
      else print "exited " code
    }
  '
}
