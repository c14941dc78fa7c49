"""Image to multi-modal retrieval: from click logs to ranked answers."""

import sys

# True while Python locates the module of `python -m`: from here on, signals
# interrupt a command of this package.
if sys.argv[:1] == ["-m"]:
    from mixer_jax.runtime import command

    command.catch_early()
    del command
