# shellcheck shell=bash
#
# Sourced by gke.sh and serve.sh, after environment.sh: fills in manifests and
# sends them to the cluster that kubectl points at.
# shellcheck disable=SC2153,SC2154 # Set by environment.sh and the scripts.

# Options whose lines in the manifests are kept. Such a line ends in a comment
# with the option, as in "# --spot".
chosen=()

# Refuses options in `given` that the subcommand `command` would ignore.
check_used() { # OPTION...
  local option used=" --dry-run $* "
  for option in ${given[@]+"${given[@]}"}; do
    if [[ $used != *" $option "* ]]; then
      used=${used% }
      reject "$command does not use $option; its options:${used% }."
    fi
  done
}

# Checks that the variable $1 matches the pattern $2; $3 describes it.
check() {
  if [[ ! ${!1} =~ $2 ]]; then reject "$1=$(quoted "${!1}"): $3"; fi
}

check_image() {
  check IMAGE '^[a-zA-Z0-9]([-a-zA-Z0-9._/:@]*[a-zA-Z0-9])?$' \
    "expected the name of an image, as in my-registry/my-project/image:1."
}

# Sets $NAMESPACE.
check_namespace() {
  NAMESPACE=${NAMESPACE:-default}
  check NAMESPACE '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$' \
    "use at most 63 of a-z, 0-9 and -, without - at the start or end."
}

# Sets the array $1 to the other words, escaped for double quotes in YAML, and
# for a container's command, in which Kubernetes expands $(NAME).
escape() {
  local variable=$1 word words=()
  shift
  for word in "$@"; do
    if [[ $word == *[[:cntrl:]]* ]]; then
      reject "$variable=$(quoted "$word"): control characters are not allowed."
    fi
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    words+=("${word//\$/\$\$}")
  done
  eval "$variable=(\${words[@]+\"\${words[@]}\"})"
}

is_chosen() {
  local option
  for option in ${chosen[@]+"${chosen[@]}"}; do
    if [[ $option == "$1" ]]; then return; fi
  done
  return 1
}

# Prints a manifest without its comment lines. A line may have one @NAME@, and
# is repeated for each word of the variable NAME, of which there may be none.
fill() { # FILE
  local yaml variable words word
  local option='# (--[a-z-]+)$' placeholder='@([A-Z_]+)@'
  while IFS= read -r yaml; do
    if [[ $yaml =~ ^\ *#(\ |$) ]]; then continue; fi
    if [[ $yaml =~ $option ]] && ! is_chosen "${BASH_REMATCH[1]}"; then
      continue
    fi
    if [[ ! $yaml =~ $placeholder ]]; then
      printf '%s\n' "$yaml"
      continue
    fi
    variable=${BASH_REMATCH[1]} words="${variable}[@]"
    for word in ${!words+"${!words}"}; do # A word may contain @NAME@.
      printf '%s\n' "${yaml/"@$variable@"/"$word"}"
    done
  done <"$1"
}

kubectl_here() { run kubectl --namespace="$NAMESPACE" "$@"; }

# Sends what render prints to the cluster.
apply() {
  local rendered manifest=runs/launch/$NAME.yaml
  rendered=$(render)
  if ! $dry_run; then
    make_folder runs/launch
    printf '%s\n' "$rendered" >"$manifest" ||
      reject "$root/$manifest cannot be written."
  fi
  kubectl_here apply --filename="$manifest"
}
