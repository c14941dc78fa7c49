"""Serves an index over HTTP: a page for searching by picture, and a JSON API.

    python -m mixer_jax.serve --index=runs/quickstart/index \
        [--host=127.0.0.1] [--port=8000]

`mixer_jax/service/server.py` documents the API. Ctrl-C or SIGTERM stops the
server, with exit code 0 if it was serving and 75 if it was still starting. Port
0 selects a free port.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence

from mixer_jax.data.images import memory
from mixer_jax.runtime import command, parsing
from mixer_jax.runtime.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.serve", __doc__)
    add = parser.add_argument
    add("--index", required=True, help="the folder that mixer_jax.index wrote")
    host = "address to listen on; 0.0.0.0 for all interfaces"
    add("--host", default="127.0.0.1", help=host)
    add("--port", type=int, default=8000, help="0 selects a free port")
    size = "maximum size of an uploaded picture"
    add("--max-megabytes", type=float, default=20, help=size)
    pixels = "maximum size of a decoded picture"
    add("--max-megapixels", type=float, default=50, help=pixels)
    add("--workdir", default="", help="workdir of the model, if moved")
    add("--images", default="", help="folder of the pictures, if moved")
    given = parser.parse_args(arguments)
    return command.run(lambda: _serve(given))


def _serve(given: argparse.Namespace) -> None:
    try:
        import python_multipart  # noqa: F401  (starlette needs it for forms)

        from mixer_jax.service import opening, server
    except ImportError as error:
        raise UserError(
            f"Serving needs the package {error.name}, which is not installed; "
            "run `pip install 'mixer_jax[serve]'`."
        ) from error
    memory.allow(given.max_megapixels, "--max-megapixels")
    memory.return_freed_blocks()
    places = {"workdir": given.workdir or None, "images": given.images or None}
    with opening.open_with(given.index, **places) as index:
        if message := opening.check_images(index):
            print(f"warning: {message}", file=sys.stderr)
        workdir = given.workdir or opening.find_model(index.store)
        with server.listen(given.host, given.port) as listener:
            searcher = server.Searcher(index, workdir, given.max_megapixels)
            app = server.make_app(searcher, given.max_megabytes)
            # uvicorn finishes pending responses, then raises the signal again.
            with contextlib.suppress(KeyboardInterrupt):
                print(
                    f"Serving {len(index)} documents at "
                    f"{server.address(listener)} (Ctrl-C to stop)",
                    flush=True,
                )
                server.run(app, listener)
            print("Stopped.")


if __name__ == "__main__":
    sys.exit(main())
