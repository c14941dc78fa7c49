# shellcheck shell=bash
#
# Sourced by environment.sh: runs commands as children that end with the script.
#
# Bash cannot trap signals that were ignored when a script started: SIGHUP under
# nohup, SIGINT in the background of another script. SIGTERM always stops it.

told_to_stop=false
asked_to_end=false
grouped=false # whether commands stay in this shell's process group
supervised=false # whether signals end the command's whole process group
stop_signal=TERM # the first signal to the group; later ones are SIGTERM
child=""
missed="" # a signal that arrived before the child's ID was known

# Runs a command as $child, so that this script can forward signals to it, and
# sets $code to its exit code. The command has its own process group: a terminal
# sends Ctrl-C to a whole group, so a run in this group would get two signals,
# and the second one would end it without a save.
supervise() {
  asked_to_end=false missed=""
  set -m
  "$@" </dev/null &
  set +m
  child=$!
  if $told_to_stop; then ask_to_end; fi # The signal came before the child.
  if [[ -n $missed ]]; then forward "$missed"; fi
  interrupted=true
  while $interrupted; do # A signal interrupts the wait, but not the command.
    interrupted=false
    code=0
    wait "$child" || code=$?
  done
  child=""
}

forward() {
  if [[ -z $child ]]; then
    missed=$1
  else
    kill "-$1" "$child" 2>/dev/null || true
  fi
}

ask_to_end() {
  local signal=$stop_signal
  if [[ -z $child ]]; then return; fi
  if $supervised; then # Signal the whole group, each time.
    if $asked_to_end; then signal=TERM; fi
    kill "-$signal" -- "-$child" 2>/dev/null || true
  elif ! $asked_to_end; then
    forward TERM
  fi
  asked_to_end=true
}

# Makes SIGTERM, SIGINT, SIGQUIT and SIGHUP stop the script, and forwards them
# to the child as SIGTERM.
stop_on_signals() {
  trap 'interrupted=true told_to_stop=true; ask_to_end' TERM INT QUIT HUP
  trap 'interrupted=true; forward USR1' USR1
}

# Makes a signal end the commands of `run`, and then this script with code 75.
supervise_runs() {
  if $grouped; then return; fi
  supervised=true
  stop_on_signals
}

# Runs a function; its commands stay in its process group and end with it. For
# use by guarded, which starts it in a shell of its own.
as_one_group() {
  supervised=false grouped=true
  "$@"
}

# Runs a command that ends on a signal to this script; returns its exit code.
guarded() {
  local code=0
  supervise "$@"
  if $told_to_stop; then
    printf '\nStopped; run the same command again to resume.\n' >&2 || true
    exit 75
  fi
  return "$code"
}

# Runs a command that ends on a signal to this script or its process group.
watched() {
  if $supervised; then guarded "$@"; else "$@"; fi
}
