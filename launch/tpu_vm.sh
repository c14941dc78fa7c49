#!/usr/bin/env bash
# Runs the training, or another command, on a TPU VM pod, requested as a queued
# resource.
#
#   launch/tpu_vm.sh create [--spot | --reserved]
#   launch/tpu_vm.sh setup
#   launch/tpu_vm.sh run [-- --config.KEY=VALUE ...]
#   launch/tpu_vm.sh babysit [--spot | --reserved] [-- --config.KEY=VALUE ...]
#   launch/tpu_vm.sh status|profile|stop|delete
#   launch/tpu_vm.sh logs [--worker=0] [--lines=100] [--follow]
#
# create requests the pod, setup copies the project to every host and installs
# it there, run starts the training on all hosts and leaves it running. babysit
# does all three as needed, and again after a preemption or a failure, until the
# run finishes (0) or its input is wrong (2); --max-restarts and --backoff are
# those of babysit.sh. A signal ends babysit after its current action, a second
# one at once; the run and the pod are left unchanged (75). stop makes the run
# save and end, profile makes every host capture a profile, delete deletes the
# pod. --dry-run prints every command and runs none.
#
# Environment variables: PROJECT, ZONE, NAME, ACCELERATOR, RUNTIME, CONFIG,
# WORKDIR (gs://...); an error explains those that are missing. DATA=gs://... is
# copied into data/ on every host. CREATE_OPTIONS and SSH_OPTIONS are passed to
# gcloud. COMMAND=embed, evaluate, categorize or data.prepare runs that command,
# with the options after -- instead of CONFIG and WORKDIR.

# shellcheck disable=SC2153 # Variables are checked by name, in need().
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=restarts.sh
source "$root/launch/restarts.sh"

known="--spot, --reserved, --worker=N, --lines=N, --follow, --poll=SECONDS, "
known+=$known_restarts
tier=()
worker=0
logs=()
poll=60 # seconds between checks of the pod
max_unknown=30 # checks in a row that may fail to reach all hosts
command=${1:-}
if (($#)); then shift; fi
while (($#)); do
  case $1 in
    --spot | --reserved) tier=("$1") ;;
    --worker=*) worker=${1#*=} ;;
    --lines=*) logs+=("$1") && check_number "$1" ;;
    --follow) logs+=("$1") ;;
    --poll=*) poll=${1#*=} && check_number "$1" ;;
    --)
      shift
      break
      ;;
    *) read_restart_option "$1" || read_options "$1" ;;
  esac
  shift
done
extra=("$@")
case $command in
  create | setup | run | babysit | status | logs | profile | stop | delete) ;;
  --help | -h | --dry-run) read_options --help ;;
  *)
    reject "unknown subcommand '$command'; known: create, setup, run," \
      "babysit, status, logs, profile, stop, delete."
    ;;
esac

need PROJECT "the Google Cloud project to bill" my-project
need ZONE "where the TPUs are (gcloud compute tpus locations list)" us-west4-a
need NAME "a name of your choice for the pod" stage2
case $command in
  create | babysit)
    need ACCELERATOR "the type and size of the pod" v5litepod-256
    need RUNTIME "the TPU software version of the hosts" v2-alpha-tpuv5-lite
    ;;
esac
case $command in
  create | setup | delete) ;;
  run | babysit) need_command ;;
  *)
    if [[ ${COMMAND:-main} == main ]]; then
      need WORKDIR "where to write checkpoints" gs://my-bucket/runs/stage2
    fi
    ;;
esac
check_needs
if [[ ! $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]]; then
  reject "NAME=$NAME: use at most 40 of a-z, 0-9 and -, starting with a" \
    "letter, not ending in -."
fi
for variable in WORKDIR DATA; do
  if [[ -n ${!variable:-} && ${!variable} != gs://* ]]; then
    reject "$variable=${!variable}: a pod's hosts share no disk; use" \
      "gs://BUCKET/FOLDER."
  fi
done
if [[ -n ${module:-} ]]; then set_program; fi
if [[ ${COMMAND:-main} == main ]]; then
  workdir=${WORKDIR:-}
  run_name=${workdir#gs://}
else
  run_name=$COMMAND
fi
run_name=${run_name//[!a-zA-Z0-9_.-]/-}
split_words CREATE_OPTIONS
create_options=(${words[@]+"${words[@]}"})
split_words SSH_OPTIONS
ssh_options=(${words[@]+"${words[@]}"})
need_program gcloud "see https://cloud.google.com/sdk/docs/install"
place=("--project=$PROJECT" "--zone=$ZONE" --quiet)

# Prints a command in a dry run; otherwise runs it without printing it.
ask() {
  if $dry_run; then run "$@"; else "$@"; fi
}

on_workers() { # WHICH COMMAND
  ask gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" \
    ${ssh_options[@]+"${ssh_options[@]}"} "--worker=$1" "--command=$2"
}

# Runs worker.sh on all hosts, or on those that $which names.
which=all
on_hosts() {
  local subcommand=$1
  shift
  on_workers "$which" "cd mixer_jax && $(quoted launch/worker.sh "$subcommand" \
    "--name=$run_name" "$@")"
}

create() {
  run gcloud compute tpus queued-resources create "$NAME" "${place[@]}" \
    "--node-id=$NAME" "--accelerator-type=$ACCELERATOR" \
    "--runtime-version=$RUNTIME" ${tier[@]+"${tier[@]}"} \
    ${create_options[@]+"${create_options[@]}"}
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" --force
}

# Copies the local files, including changes that are not committed.
setup() {
  local archive=runs/launch/$NAME.tgz folders=(mixer_jax configs launch)
  if ! $dry_run; then make_folder runs/launch; fi
  run tar -czf "$archive" --exclude=__pycache__ "${folders[@]}" \
    pyproject.toml requirements.txt README.md LICENSE
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:mixer_jax.tgz" \
    "${place[@]}" ${ssh_options[@]+"${ssh_options[@]}"} --worker=all
  on_workers all "mkdir -p mixer_jax && cd mixer_jax && rm -rf ${folders[*]} \
&& tar -xzf ../mixer_jax.tgz && $(quoted launch/worker.sh setup --extra=tpu \
    ${DATA:+"--data=$DATA"})" || fail "not all hosts could be set up."
}

start() {
  on_hosts start -- "${program[@]}" ${extra[@]+"${extra[@]}"} ||
    {
      on_hosts end --grace=60 || true
      fail "the run could not be started on all hosts."
    }
}

# Sets $state to the state of the queued resource: ABSENT if there is none,
# UNKNOWN if gcloud failed, with its message in $reason.
find_state() {
  local errors=runs/launch/$NAME.errors
  local describe=(gcloud compute tpus queued-resources describe "$NAME"
    "${place[@]}" "--format=value(state.state)")
  state=ACTIVE reason=""
  if $dry_run; then
    run "${describe[@]}"
    return
  fi
  make_folder runs/launch
  if state=$(trap '' INT && "${describe[@]}" 2>"$errors"); then
    reason=""
  else
    reason=$(<"$errors")
    if [[ $reason == *NOT_FOUND* ]]; then state=ABSENT; else state=UNKNOWN; fi
  fi
}

# Prints the state of the run on all hosts, from worker.sh. Runs in a subshell
# that ignores Ctrl-C, so that the output is not lost.
run_state() {
  local hosts
  trap '' INT
  hosts=$(gcloud compute tpus tpu-vm describe "$NAME" "${place[@]}" \
    "--format=value(networkEndpoints.len())" 2>/dev/null) || hosts=1000000
  (on_workers all "$(status_command)" 2>/dev/null || true) | verdict "$hosts"
}

status_command() {
  # shellcheck disable=SC2016 # Expanded on the host.
  printf 'if [ -d mixer_jax/launch ]; then cd mixer_jax && %s; else %s; fi' \
    "$(quoted launch/worker.sh status "--name=$run_name")" \
    'echo "worker $(uname -n) absent"'
}

# Runs an action; its failure is handled like a failure of the run.
attempt() {
  local code
  supervise as_one_group "$@"
  if ((code)); then
    if $told_to_stop; then return 1; fi
    restart_or_exit "$code" "'$*'"
    return 1
  fi
}

setup_and_start() {
  setup
  start
}

restart() {
  on_hosts end --grace=60 || true
  start
}

# Ends the run on all hosts once one has failed, since the others wait for it.
# Updates $now, because another host's failure may take precedence.
end_everywhere() {
  local final code
  if [[ $now == "exited 0" ]]; then return; fi
  supervise as_one_group on_hosts end --grace=60
  final=$(run_state)
  if [[ $final == exited* || $final == stopped* ]]; then now=$final; fi
}

# Checks the run on an active pod once, and acts on its state.
check_run() {
  local now
  now=$(run_state)
  if [[ $now != "$seen" ]]; then note "The run on $NAME: $now."; fi
  seen=$now
  if [[ $now == unknown ]]; then
    unknown=$((unknown + 1))
    if ((unknown > max_unknown)); then
      unknown=0
      restart_or_exit 1 "The query of the hosts' state"
      attempt restart || true
    fi
    return
  fi
  unknown=0
  if [[ $now == running ]]; then
    started=true
  elif [[ $now == absent ]] || ! $started; then
    # A run that has ended did so before this loop began.
    if attempt setup_and_start; then started=true; fi
  else
    if [[ $now != stopped* ]]; then end_everywhere; fi
    if [[ $now == stopped* ]]; then
      note "The run was stopped."
      exit "${now#* }"
    fi
    restart_or_exit "${now#* }"
    attempt start || true
  fi
}

babysit() {
  local before="" known_once=false
  started=false seen="" unknown=0
  supervise_runs
  stop_signal=0 # Let a command that began on some hosts finish on all.
  remember_step
  until $told_to_stop; do
    find_state
    if [[ $state != "$before" ]]; then note "The pod $NAME: $state."; fi
    before=$state
    case $state in
      ACTIVE) check_run ;;
      ABSENT) attempt create || true ;;
      SUSPENDED) attempt delete || true ;; # Preempted; the name is in use.
      FAILED)
        restart_or_exit 1 "The request for the pod"
        attempt delete || true
        ;;
      UNKNOWN)
        note "$reason"
        # If the state was known before, this is a temporary outage.
        if ! $known_once; then
          restart_or_exit 1 "The query of the pod's state"
        fi
        ;;
    esac # In all other states, wait.
    if [[ $state != UNKNOWN ]]; then known_once=true; fi
    pause "$poll"
  done
  note "The run continues without a babysitter; 'stop' ends it, and 'delete'" \
    "deletes the pod."
  exit 75
}

case $command in
  create | setup | delete) "$command" ;;
  run) start ;;
  status)
    find_state
    if ! $dry_run; then say "The pod $NAME: $state $reason"; fi
    if [[ $state == ACTIVE ]]; then on_workers all "$(status_command)"; fi
    ;;
  logs)
    which=$worker
    on_hosts logs ${logs[@]+"${logs[@]}"}
    ;;
  profile | stop) on_hosts "$command" ;;
  babysit)
    if $dry_run; then
      say "At the start, and again after a preemption:"
      find_state
      create
      setup
      start
      say "Every $poll seconds:"
      on_workers all "$(status_command)"
      say "After a failure:"
      restart
      say "After a preemption, before starting over:"
      delete
    else
      babysit
    fi
    ;;
esac
