"""Image to multi-modal retrieval: from click logs to ranked answers."""

import sys

# True while Python looks for the module of `python -m`: from here on a command
# of ours can be interrupted.
if sys.argv[:1] == ["-m"]:
    from mixer_jax.runtime import command

    command.catch_early()
    del command
