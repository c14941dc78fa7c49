#!/usr/bin/env bash
# A run on the nodes of a Slurm cluster, which is requeued until it finishes.
#
#   NODES=4 GPUS=8 CONFIG=configs/stage2.py WORKDIR=/nfs/runs/stage2 \
#     launch/slurm.sh [--dry-run] [-- --config.KEY=VALUE ...]
#
# Called by hand it checks what it is given and hands itself to sbatch; there it
# starts the training with srun, a process for each of the GPUS of a node (0 and
# one process for CPU), which find each other through Slurm. Before the time
# limit they get SIGTERM, save, and end with exit code 75: then the job goes
# back into the queue. Other failures are restarted in place, --max-restarts in
# a row without progress. The project's folder, and WORKDIR if it is not
# gs://..., are folders that all nodes share. Also: NAME, of the job; TIME, its
# limit, as in 24:00:00; SBATCH_OPTIONS="--partition=gpu". --dry-run prints
# every command and runs none.

# shellcheck disable=SC2153 # Variables are checked by name, in need.
set -euo pipefail
launch=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
in_job=false
if [[ ! -f $launch/environment.sh ]]; then # Slurm runs a copy, in our root.
  launch=./launch
  in_job=true
fi
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$launch/environment.sh"
# shellcheck source-path=SCRIPTDIR source=restarts.sh
source "$root/launch/restarts.sh"

known=$known_restarts
before=300 # seconds that a save may take; SIGTERM comes that long before
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

need NODES "how many nodes" 4
need GPUS "how many GPUs each has, 0 for none" 8
need CONFIG "the run's config" configs/stage2.py
need WORKDIR "where its checkpoints go" gs://my-bucket/runs/stage2
check_needs
check_number "NODES=$NODES"
check_number "GPUS=$GPUS"
check_config
check_name NAME "${NAME:-mixer_jax}"
tasks=$((GPUS > 0 ? GPUS : 1)) # With GPUs, JAX gives each task one.

if ! $in_job; then
  gpus=()
  if ((GPUS > 0)); then gpus=("--gpus-per-node=$GPUS"); fi
  split_words SBATCH_OPTIONS
  need_program sbatch "run this on a machine with Slurm's commands"
  if ! $dry_run; then make_folder runs/launch; fi
  run sbatch "--job-name=${NAME:-mixer_jax}" "--nodes=$NODES" \
    "--ntasks-per-node=$tasks" ${gpus[@]+"${gpus[@]}"} ${TIME:+"--time=$TIME"} \
    "--signal=TERM@$before" --requeue --open-mode=append --export=ALL \
    "--chdir=$root" "--output=runs/launch/%x-%j.log" \
    ${words[@]+"${words[@]}"} launch/slurm.sh \
    ${restart_options[@]+"${restart_options[@]}"} -- "$@"
  exit
fi

# A job that has reached its limit is only requeued if it ends by itself.
time_is_up=""
if [[ ${SLURM_JOB_END_TIME:-} =~ ^[0-9]+$ ]]; then
  time_is_up=$((SLURM_JOB_END_TIME - before))
fi
code=0
# The first process to end leaves the others time to save; then they end too.
watched=(launch/babysit.sh "--workdir=$WORKDIR" --stop-on=75
  ${time_is_up:+"--stop-at=$time_is_up"}
  ${restart_options[@]+"${restart_options[@]}"} --
  srun --kill-on-bad-exit=0 "--wait=$before"
  "$venv/bin/python" -m mixer_jax.main "--config=$CONFIG" "--workdir=$WORKDIR"
  "$@")
printf '+ %s\n' "$(quoted "${watched[@]}")"
if $dry_run; then exit; fi
"${watched[@]}" || code=$?
if [[ $code == 75 ]] || [[ $code != [02] && -n $time_is_up &&
  $(date +%s) -ge $time_is_up ]]; then
  note "The run ended: $(meaning "$code"). Back into the queue."
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
