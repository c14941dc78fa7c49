#!/usr/bin/env bash
# Runs the training, or another command, on a TPU slice of the GKE cluster that
# kubectl points at.
#
#   launch/gke.sh render|apply [--spot] [-- --config.KEY=VALUE ...]
#   launch/gke.sh status|delete
#   launch/gke.sh logs [--worker=0] [--lines=100] [--follow]
#
# render prints launch/gke/jobset.yaml, a JobSet, with all values filled in.
# apply sends it to the cluster, which restarts the run after every preemption
# and after at most --max-restarts=10 failures, and ends it at once if its input
# is wrong. To change a run, delete it and apply it again; it resumes. --dry-run
# prints every command and runs none.
#
# Environment variables: NAME, ACCELERATOR, TOPOLOGY, IMAGE, CONFIG, WORKDIR and
# DATA (gs://...); an error explains missing ones. Optional: NAMESPACE,
# SERVICE_ACCOUNT, and CHIPS_PER_HOST if the machines of the node pool do not
# have GKE's default size for the slice. COMMAND=embed, evaluate,
# categorize or data.prepare runs that command, with the options after --
# instead of CONFIG and WORKDIR.

# shellcheck disable=SC2034,SC2153 # Variables are checked and used by name.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=manifests.sh
source "$root/launch/manifests.sh"

known="--spot, --max-restarts=N, --worker=N, --lines=N, --follow, "
MAX_RESTARTS=10
worker=0
lines=100
follow=()
command=${1:-}
if (($#)); then shift; fi
given=()
while (($#)); do
  if [[ $1 != -- ]]; then given+=("${1%%=*}"); fi
  case $1 in
    --spot) chosen+=("$1") ;;
    --max-restarts=*) MAX_RESTARTS=${1#*=} && check_number "$1" ;;
    --worker=*) worker=${1#*=} && check_number "$1" ;;
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
extra=("$@")
case $command in
  render | apply | status | logs | delete) ;;
  --help | -h | --dry-run) read_options --help ;;
  *)
    reject "unknown subcommand '$command'; known: render, apply, status," \
      "logs, delete."
    ;;
esac

used=()
case $command in
  render | apply) used=(--spot --max-restarts) ;;
  logs) used=(--worker --lines --follow) ;;
esac
check_used ${used[@]+"${used[@]}"}

need NAME "a name of your choice for the run" stage2
case $command in
  render | apply)
    need ACCELERATOR "the TPU type, as GKE labels nodes" tpu-v5-lite-podslice
    need TOPOLOGY "the topology of the slice" 16x16
    need IMAGE "the image built from launch/gke/Dockerfile" \
      my-registry/my-project/mixer_jax:1
    need_command
    need DATA "what to copy to data/ on every host" gs://my-bucket/data
    ;;
esac
check_needs

check NAME '^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$' \
  "use at most 40 of a-z, 0-9 and -, starting with a letter, not ending in -."
check_namespace
if [[ $command != render ]]; then
  need_program kubectl "it is needed to connect to the cluster"
fi

# Sets $CHIPS, the chips per host, and $HOSTS.
count_hosts() {
  local all chips
  all=$((${TOPOLOGY//x/*}))
  # A host has 4 chips; for v5e and v6e, one host may also be the whole slice.
  # https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
  chips=4
  case $ACCELERATOR in
    tpu-v5-lite-* | tpu-v6e-*) if ((all <= 8)); then chips=$all; fi ;;
  esac
  chips=${CHIPS_PER_HOST:-$chips}
  if ((all % chips)); then
    reject "TOPOLOGY=$TOPOLOGY has $all chips, which is not a multiple of" \
      "the $chips chips per host; set CHIPS_PER_HOST."
  fi
  CHIPS=$chips HOSTS=$((all / chips))
}

render() {
  local CHIPS HOSTS PROGRAM EXTRA
  local plain='expected a plain value, without spaces or quotes.'
  check TOPOLOGY '^[1-9][0-9]*(x[1-9][0-9]*){1,2}$' \
    "expected chips along two or three axes, as in 16x16 or 4x4x4."
  if [[ $module == main ]]; then
    check WORKDIR '^gs://.' \
      "a slice's hosts share no disk; use gs://BUCKET/FOLDER."
  fi
  check DATA '^gs://.' \
    "a slice's hosts share no disk; use gs://BUCKET/FOLDER."
  check ACCELERATOR '^[-a-z0-9]+$' "$plain"
  check_image
  SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default}
  check SERVICE_ACCOUNT '^[-.a-z0-9]+$' "$plain"
  CHIPS_PER_HOST=${CHIPS_PER_HOST:-}
  check CHIPS_PER_HOST '^(|[1-9][0-9]*)$' "expected a whole number."
  set_program
  count_hosts
  escape DATA "$DATA"
  escape PROGRAM "${program[@]}"
  escape EXTRA ${extra[@]+"${extra[@]}"}
  fill launch/gke/jobset.yaml
}

pods=jobset.sigs.k8s.io/jobset-name=$NAME
case $command in
  render) render ;;
  apply) apply ;;
  status)
    kubectl_here get jobset "$NAME"
    kubectl_here get pods --selector="$pods" --output=wide
    ;;
  logs)
    kubectl_here logs --container=train --tail="$lines" \
      --selector="$pods,batch.kubernetes.io/job-completion-index=$worker" \
      ${follow[@]+"${follow[@]}"}
    ;;
  delete) kubectl_here delete jobset "$NAME" ;;
esac
