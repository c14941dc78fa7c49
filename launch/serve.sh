#!/usr/bin/env bash
# Serves an index in Milvus with several replicas of the search service, on the
# Kubernetes cluster that kubectl points at.
#
#   launch/serve.sh milvus [--cluster] [-- HELM OPTIONS]
#   launch/serve.sh render|apply [--replicas=2] [--max-replicas=10]
#       [--read-key] [--write-key] [--events] [--queue] [-- SERVE OPTIONS]
#   launch/serve.sh status|delete
#   launch/serve.sh logs [--lines=100] [--follow]
#
# milvus installs or upgrades Milvus with Helm, as the release NAME-milvus: one
# process, or with --cluster its parts on several nodes. render prints the
# manifests in launch/serve with all values filled in, and apply sends them to
# the cluster. With --read-key and --write-key, requests need the API keys of
# these names in the secret; --events records searches and clicks in a shared
# volume; --queue also scales with the metric of waiting queries, which needs a
# metrics adapter. --dry-run prints every command and runs none.
#
# Environment variables: NAME, IMAGE, INDEX, MODELS and MODEL, and EVENTS with
# --events; an error explains missing ones. Optional: NAMESPACE; SECRET, the
# name of the secret, by default NAME; CPUS and MEMORY of a replica, by default
# 4 and 6Gi.

# shellcheck disable=SC2034,SC2153 # Variables are checked and used by name.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=manifests.sh
source "$root/launch/manifests.sh"

charts=https://zilliztech.github.io/milvus-helm/
chart_version=5.0.19 # of Milvus 2.6.15
parts=(deployment service autoscaler disruption network)
known="--replicas=N, --max-replicas=N, --read-key, --write-key, --events, "
known+="--queue, --cluster, --lines=N, --follow, "
REPLICAS=2
MAX_REPLICAS=10
mode=standalone
lines=100
follow=()
command=${1:-}
if (($#)); then shift; fi
given=()
while (($#)); do
  if [[ $1 != -- ]]; then given+=("${1%%=*}"); fi
  case $1 in
    --replicas=*) REPLICAS=${1#*=} && check_number "$1" ;;
    --max-replicas=*) MAX_REPLICAS=${1#*=} && check_number "$1" ;;
    --read-key | --write-key | --events | --queue) chosen+=("$1") ;;
    --cluster) mode=cluster ;;
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
  milvus | render | apply | status | logs | delete) ;;
  --help | -h | --dry-run) read_options --help ;;
  *)
    reject "unknown subcommand '$command'; known: milvus, render, apply," \
      "status, logs, delete."
    ;;
esac

used=()
case $command in
  milvus) used=(--cluster) ;;
  render | apply)
    used=(--replicas --max-replicas --read-key --write-key --events --queue)
    ;;
  logs) used=(--lines --follow) ;;
esac
check_used ${used[@]+"${used[@]}"}
case $command in
  status | logs | delete)
    if (($#)); then reject "$command takes no options after --."; fi
    ;;
esac

need NAME "a name of your choice for the service" shop
case $command in
  render | apply)
    need IMAGE "the image built from launch/serve/Containerfile" \
      my-registry/my-project/mixer_jax_serve:1
    need INDEX "the address of the index in Milvus" \
      http://shop-milvus:19530
    need MODELS "the persistent volume claim with model bundles" models
    need MODEL "the folder of the index's model in it" stage3
    if is_chosen --events; then
      need EVENTS "a persistent volume claim that all replicas may write" events
    fi
    ;;
esac
check_needs

label='[a-z0-9]([-a-z0-9]*[a-z0-9])?'
name_pattern="^$label(\\.$label)*\$"
name_rule="use a-z, 0-9, - and ., where all parts between dots start and end"
name_rule+=" with a letter or digit."

# Checks the variable $1, the name of a resource in the cluster.
check_resource() {
  local value=${!1}
  check "$1" "$name_pattern" "$name_rule"
  if ((${#value} > 253)); then
    reject "$1 has ${#value} characters; use at most 253."
  fi
}

check NAME '^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$' \
  "use at most 40 of a-z, 0-9 and -, starting with a letter, not ending in -."
check_namespace
SECRET=${SECRET:-$NAME}
check_resource SECRET
case $command in
  render) ;;
  milvus) need_program helm "it is needed to install Milvus" ;;
  *) need_program kubectl "it is needed to connect to the cluster" ;;
esac

# Checks INDEX, and sets $MILVUS_PORT.
check_index() {
  local name='[A-Za-z_][A-Za-z0-9_]*'
  local part='[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?' host
  host="$part(\\.$part)*\\.?"
  local form="http://HOST:PORT, http://HOST:PORT/DATABASE"
  form+=" or http://HOST:PORT#COLLECTION"
  if [[ $INDEX != *://* ]]; then
    reject "INDEX=$(quoted "$INDEX"): replicas share no disk; use the address" \
      "of a Milvus server, such as http://shop-milvus:19530."
  fi
  if [[ $INDEX == *@* ]]; then
    reject "INDEX must not have a password; put it in the secret $SECRET as" \
      "milvus-token."
  fi
  check INDEX "^https?://$host:[1-9][0-9]{0,4}(/$name)?(#$name)?\$" \
    "expected $form."
  MILVUS_PORT=${INDEX#*://*:}
  MILVUS_PORT=${MILVUS_PORT%%[/#]*}
  if ((MILVUS_PORT > 65535)); then
    reject "INDEX=$INDEX: the port is at most 65535."
  fi
}

check_replicas() {
  if ((REPLICAS < 1 || REPLICAS > MAX_REPLICAS)); then
    reject "--replicas=$REPLICAS must be at least 1 and at most" \
      "--max-replicas=$MAX_REPLICAS."
  fi
}

render() {
  local EXTRA MILVUS_PORT part
  check_index
  check_replicas
  check_image
  check_resource MODELS
  check MODEL '^[A-Za-z0-9_][-A-Za-z0-9._]*(/[A-Za-z0-9_][-A-Za-z0-9._]*)*$' \
    "expected the path of a folder in the volume, such as stage3."
  if is_chosen --events; then check_resource EVENTS; fi
  CPUS=${CPUS:-4} MEMORY=${MEMORY:-6Gi}
  check CPUS '^[1-9][0-9]{0,2}$' "expected a whole number of cores."
  check MEMORY '^[1-9][0-9]{0,5}[MG]i$' "expected a size such as 6Gi."
  escape EXTRA ${extra[@]+"${extra[@]}"}
  for part in "${parts[@]}"; do
    echo ---
    fill "launch/serve/$part.yaml"
  done
}

install_milvus() {
  local values=runs/launch/$NAME-milvus.yaml
  if ! $dry_run; then
    make_folder runs/launch
    fill "launch/serve/milvus-$mode.yaml" >"$values" ||
      reject "$root/$values cannot be written."
  fi
  run helm upgrade --install "$NAME-milvus" milvus --repo="$charts" \
    --version="$chart_version" --namespace="$NAMESPACE" \
    --values="$values" ${extra[@]+"${extra[@]}"}
}

selector=app.kubernetes.io/name=mixer-jax,app.kubernetes.io/instance=$NAME
case $command in
  milvus) install_milvus ;;
  render) render ;;
  apply) apply ;;
  status)
    kubectl_here get deployment,horizontalpodautoscaler "$NAME"
    kubectl_here get pods --selector="$selector" --output=wide
    ;;
  logs)
    kubectl_here logs --container=serve --tail="$lines" --prefix \
      --selector="$selector" --max-log-requests=100 \
      ${follow[@]+"${follow[@]}"}
    ;;
  delete)
    kinds=deployment,service,horizontalpodautoscaler
    kinds+=,poddisruptionbudget,networkpolicy
    kubectl_here delete "$kinds" "$NAME"
    ;;
esac
