"""Exports a trained model, its towers, proxies or encoders.

    python -m mixer_jax.export --workdir=runs/quickstart --out=bundle

For a curriculum, the last stage is exported. An existing export in the folder
is replaced. --to selects the format:

bundle       the model in a portable folder, for `mixer_jax.load` and commands
stablehlo    both towers as programs that JAX runs without this package
proxies      proxies.npy (float32, one row per category) and categories.json
huggingface  the encoders, each in a folder that transformers can load
"""

import argparse
import sys
from collections.abc import Sequence

from mixer_jax.retrieval import (
    bundle,
    folders,
    model,
)
from mixer_jax.retrieval.export import encoders, proxies, stablehlo
from mixer_jax.runtime import command, parsing, terminal
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.export", __doc__)
    add = parser.add_argument
    workdir = "workdir of a stage or curriculum; for stablehlo, also a bundle"
    add("--workdir", required=True, help=workdir)
    add("--out", required=True, help="the folder to write")
    add("--to", choices=list(_KINDS), default="bundle", help="format to write")
    add("--unit", action="store_true", help="scale proxies to length 1")
    given = parser.parse_args(arguments)
    return command.run(lambda: _export(given))


def _export(given: argparse.Namespace) -> None:
    if given.unit and given.to != "proxies":
        raise UserError("--unit needs --to=proxies.")
    kind, write = _KINDS[given.to]
    with folders.owned(given.out, kind):
        message = write(given)
    terminal.say(message)


def _bundle(given: argparse.Namespace) -> str:
    trained, measures = model.load_measured(given.workdir)
    fingerprint = bundle.write(trained, given.out, measures)
    return (
        f"Wrote the model of step {trained.step} of {given.workdir}, "
        f"fingerprint {fingerprint}, to {given.out}"
    )


def _towers(given: argparse.Namespace) -> str:
    trained = model.load_trained(given.workdir, mesh_lib.make_mesh())
    info = stablehlo.write(trained, given.out)
    return (
        f"Wrote the towers of step {info.step} of {given.workdir}, fingerprint "
        f"{info.fingerprint}, to {given.out}"
    )


def _proxies(given: argparse.Namespace) -> str:
    info = proxies.write(given.workdir, given.out, given.unit)
    return (
        f"Wrote the proxies of {info.count:,} categories (vectors with "
        f"{info.dim} elements) of step {info.step} of {info.workdir} to "
        f"{given.out}"
    )


def _encoders(given: argparse.Namespace) -> str:
    info = encoders.write(given.workdir, given.out)
    source = f"{' and '.join(info.parts)} of step {info.step} of {info.workdir}"
    message = f"Wrote {source} to {given.out}"
    if info.without:
        message += f"; transformers has no {' and no '.join(info.without)}"
    return message


_KINDS = {
    "bundle": (bundle.KIND, _bundle),
    "stablehlo": (stablehlo.KIND, _towers),
    "proxies": (proxies.KIND, _proxies),
    "huggingface": (encoders.KIND, _encoders),
}


if __name__ == "__main__":
    sys.exit(main())
