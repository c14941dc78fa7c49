"""Runs one aggregation a line of stdin, where Beam is; see conftest.py."""

import json
import logging
import sys

from mixer_jax.categories import gathering
from mixer_jax.errors import UserError

logging.getLogger("apache_beam").setLevel(logging.ERROR)
answers = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    try:
        answer = {"figures": gathering.aggregate(**json.loads(line))}
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), file=answers, flush=True)
