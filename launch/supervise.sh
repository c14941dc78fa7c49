# shellcheck shell=bash
#
# Sourced by environment.sh: a command as a child that ends with the script.
#
# A signal that is ignored when a script starts stays ignored, as bash has it:
# SIGHUP under nohup, SIGINT in the background of another script. SIGTERM stops
# it in any case.

told_to_stop=false
asked_to_end=false
supervised=false # whether signals end all that a command has started
stop_signal=TERM # what it gets then; after that, SIGTERM
child=""
missed="" # a signal between the child's start and when its number was known

# Runs a command as $child, so that a signal to this script can be handed on
# to it, and leaves its exit code in $code. The command has a process group of
# its own: Ctrl-C on a terminal goes to all of a group, and it would get two
# signals, of which a run takes the second as an end without a save.
supervise() {
  asked_to_end=false missed=""
  set -m
  "$@" </dev/null &
  set +m
  child=$!
  if $told_to_stop; then ask_to_end; fi # It came before there was a child.
  if [[ -n $missed ]]; then hand_on "$missed"; fi
  interrupted=true
  while $interrupted; do # A signal ends the wait, but not the command.
    interrupted=false
    code=0
    wait "$child" || code=$?
  done
  child=""
}

hand_on() {
  if [[ -z $child ]]; then
    missed=$1
  else
    kill "-$1" "$child" 2>/dev/null || true
  fi
}

ask_to_end() {
  local signal=$stop_signal
  if [[ -z $child ]]; then return; fi
  if $supervised; then # With all that it started, and again if asked again.
    if $asked_to_end; then signal=TERM; fi
    kill "-$signal" -- "-$child" 2>/dev/null || true
  elif ! $asked_to_end; then
    hand_on TERM
  fi
  asked_to_end=true
}

# From now on SIGTERM, SIGINT, SIGQUIT and SIGHUP stop, and reach the child as
# SIGTERM.
stop_on_signals() {
  trap 'interrupted=true told_to_stop=true; ask_to_end' TERM INT QUIT HUP
  trap 'interrupted=true; hand_on USR1' USR1
}

# From now on a signal ends what `run` runs, and then this script, with 75.
supervise_runs() {
  supervised=true
  stop_on_signals
}

# Runs a function whose commands are to end with it: they share its group.
as_one_group() {
  supervised=false
  "$@"
}

# Runs a command that a signal to this script ends; the exit code is its own.
guarded() {
  local code=0
  supervise "$@"
  if $told_to_stop; then
    printf '\nStopped; the same command goes on.\n' >&2
    exit 75
  fi
  return "$code"
}
