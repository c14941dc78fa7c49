"""Serves an index over HTTP: a page for searching by picture, and a JSON API.

    python -m mixer_jax.serve --index=runs/quickstart/index \
        [--host=127.0.0.1] [--port=8000]

`mixer_jax/service/server.py` lists the requests. Ctrl-C or SIGTERM stops the
server, with exit code 0 if it was serving and 75 if it was still starting. Port
0 selects a free port. API keys are read from files or, if given as env:NAME,
from environment variables.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence

from mixer_jax.data.images import memory
from mixer_jax.runtime import command, numbers, parsing
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import counted
from mixer_jax.service import opening
from mixer_jax.service.batches import generations


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.serve", __doc__)
    add = parser.add_argument
    index = "the index: a folder, or its address in Milvus"
    add("--index", required=True, help=index)
    host = "address to listen on; 0.0.0.0 for all interfaces"
    add("--host", default="127.0.0.1", help=host)
    add("--port", type=int, default=8000, help="0 selects a free port")
    add("--max-megabytes", type=float, default=20, help="maximum request size")
    pixels = "maximum size of a decoded picture"
    add("--max-megapixels", type=float, default=50, help=pixels)
    add("--workdir", help="workdir of the model, if moved")
    add("--images", help="folder of the pictures, if moved")
    add("--write-key", help="file with the API key for writing")
    add("--read-key", help="file with the API key for reading")
    cors = "origin whose pages may send requests; may be repeated"
    add("--cors-origin", action="append", default=[], help=cors)
    log = "log requests as JSON on standard error"
    add("--log-requests", action="store_true", help=log)
    add("--events", help="folder to record searches and clicks in")
    days = "how long events are kept"
    add("--events-days", type=numbers.whole(1, 36_500), default=90, help=days)
    given = parser.parse_args(arguments)
    return command.run(lambda: _serve(given))


def _serve(given: argparse.Namespace) -> None:
    try:
        import python_multipart  # noqa: F401  (starlette needs it for forms)

        from mixer_jax.service import server
        from mixer_jax.service.http import settings
    except ImportError as error:
        raise UserError(
            f"Serving needs the package {error.name}, which is not installed; "
            "run `pip install 'mixer_jax[serve]'`."
        ) from error
    memory.allow(given.max_megapixels, "--max-megapixels")
    memory.return_freed_blocks()
    chosen = settings.read(given)
    open_ = generations.opener(
        given.index, workdir=given.workdir, images=given.images
    )
    # Report a missing index or model before the port is opened.
    with opening.open_with(given.index, images=given.images) as index:
        opening.check_has_model(index.store, given.workdir)
        if message := opening.check_images(index):
            print(f"warning: {message}", file=sys.stderr)
    with (
        server.listen(given.host, given.port) as listener,
        generations.Generations(open_, chosen.max_pixels) as opened,
    ):
        items = counted(len(opened.current.index), "item")
        app = server.make_app(opened, chosen)
        # uvicorn finishes pending responses, then raises the signal again.
        with contextlib.suppress(KeyboardInterrupt):
            print(
                f"Serving {items} at {server.address(listener)} "
                "(Ctrl-C to stop)",
                flush=True,
            )
            server.run(app, listener)
        print("Stopped.")


if __name__ == "__main__":
    sys.exit(main())
