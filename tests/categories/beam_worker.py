"""Runs one aggregation per line of stdin, with Beam; see conftest.py."""

import json
import logging
import sys

# Neither Beam's own environment nor cluster workers have these.
sys.modules.update(dict.fromkeys(("jax", "scipy", "sklearn")))

from mixer_jax.categories.clicks import gathering  # noqa: E402
from mixer_jax.runtime.errors import UserError  # noqa: E402

logging.getLogger("apache_beam").setLevel(logging.ERROR)
answers = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    try:
        answer = {"figures": gathering.aggregate(**json.loads(line))}
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), file=answers, flush=True)
