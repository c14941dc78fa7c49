#!/usr/bin/env bash
# Runs the training, or another command, on a Slurm cluster, and requeues it
# until it finishes.
#
#   NODES=4 GPUS=8 CONFIG=configs/stage2.py WORKDIR=/nfs/runs/stage2 \
#     launch/slurm.sh [--dry-run] [-- --config.KEY=VALUE ...]
#   NODES=4 GPUS=8 COMMAND=embed launch/slurm.sh -- --workdir=... --out=...
#
# Called by hand, it checks its input and submits itself to sbatch. In the job,
# it starts the training with srun, one process for each of a node's GPUS (if
# GPUS=0, one process on the CPU); the processes find each other through Slurm.
# Before the time limit they get SIGTERM, save, and end with exit code 75, and
# the job is requeued. Other failures are restarted in place, at most
# --max-restarts in a row without progress. All nodes must share the project's
# folder, and WORKDIR unless it is in a bucket. Optional: NAME, the job's name;
# TIME, its limit, as in 24:00:00; SBATCH_OPTIONS="--partition=gpu";
# COMMAND=embed, evaluate, categorize or data.prepare, which gets the options
# after -- instead of CONFIG and WORKDIR. --dry-run prints every command and
# runs none.

# shellcheck disable=SC2153 # Variables are checked by name, in need().
set -euo pipefail
launch=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
in_job=false
# In a job, Slurm runs a copy of this script, in the project's root.
if [[ ! -f $launch/environment.sh ]]; then
  launch=./launch
  in_job=true
fi
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$launch/environment.sh"
# shellcheck source-path=SCRIPTDIR source=restarts.sh
source "$root/launch/restarts.sh"

known=$known_restarts
before=300 # seconds from SIGTERM to the time limit, to save
restart_options=()
while (($#)); do
  case $1 in
    --)
      shift
      break
      ;;
    *)
      if read_restart_option "$1"; then
        restart_options+=("$1")
      else
        read_options "$1"
      fi
      ;;
  esac
  shift
done

need NODES "the number of nodes" 4
need GPUS "the number of GPUs per node, 0 for none" 8
need_command
check_needs
check_number "NODES=$NODES"
check_number "GPUS=$GPUS"
set_program
check_name NAME "${NAME:-mixer_jax}"
tasks=$((GPUS > 0 ? GPUS : 1)) # With GPUs, JAX gives each task one.

if ! $in_job; then
  gpus=()
  if ((GPUS > 0)); then gpus=("--gpus-per-node=$GPUS"); fi
  split_words SBATCH_OPTIONS
  need_program sbatch "run this where Slurm's commands are installed"
  if ! $dry_run; then make_folder runs/launch; fi
  run sbatch "--job-name=${NAME:-mixer_jax}" "--nodes=$NODES" \
    "--ntasks-per-node=$tasks" ${gpus[@]+"${gpus[@]}"} ${TIME:+"--time=$TIME"} \
    "--signal=TERM@$before" --requeue --open-mode=append --export=ALL \
    "--chdir=$root" "--output=runs/launch/%x-%j.log" \
    ${words[@]+"${words[@]}"} launch/slurm.sh \
    ${restart_options[@]+"${restart_options[@]}"} -- "$@"
  exit
fi

# At its time limit, a job can only be requeued if it ends by itself.
time_is_up=""
if [[ ${SLURM_JOB_END_TIME:-} =~ ^[0-9]+$ ]]; then
  time_is_up=$((SLURM_JOB_END_TIME - before))
fi
code=0
# After the first process ends, srun gives the others time to save.
watched=(launch/babysit.sh)
if [[ $module == main ]]; then watched+=("--workdir=$WORKDIR"); fi
watched+=(--stop-on=75
  ${time_is_up:+"--stop-at=$time_is_up"}
  ${restart_options[@]+"${restart_options[@]}"} --
  srun --kill-on-bad-exit=0 "--wait=$before"
  "${program[@]}" "$@")
printf '+ %s\n' "$(quoted "${watched[@]}")"
if $dry_run; then exit; fi
"${watched[@]}" || code=$?
if [[ $code == 75 ]] || [[ $code != [02] && -n $time_is_up &&
  $(date +%s) -ge $time_is_up ]]; then
  note "The run ended: $(meaning "$code"). Requeuing the job."
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
