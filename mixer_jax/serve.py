"""Serves an index: a page to search with by picture, and answers in JSON.

    python -m mixer_jax.serve --index=runs/quickstart/index \
        [--host=127.0.0.1] [--port=8000]

`mixer_jax/retrieval/server.py` says what it answers. Ctrl-C ends it. Port 0
takes a free one.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence

from mixer_jax import mesh as mesh_lib
from mixer_jax.errors import UserError
from mixer_jax.retrieval import index as index_lib
from mixer_jax.runtime import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mixer_jax.serve", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--index", required=True, help="the folder that mixer_jax.index wrote")
    add("--host", default="127.0.0.1", help="0.0.0.0 lets others in")
    add("--port", type=int, default=8000)
    add("--max-megabytes", type=float, default=20, help="largest picture")
    given = parser.parse_args(arguments)
    return command.run(lambda: _serve(given))


def _serve(given: argparse.Namespace) -> None:
    try:
        import uvicorn

        from mixer_jax.retrieval import server
    except ImportError as error:
        raise UserError(
            f"Serving needs the package {error.name}, which is not installed; "
            "run `pip install 'mixer_jax[serve]'`."
        ) from error
    index = index_lib.load(given.index)
    with server.listen(given.host, given.port) as listener:
        mesh = mesh_lib.make_mesh()
        trained = index_lib.load_model(index, mesh)
        searcher = server.Searcher(index, trained, mesh)
        app = server.make_app(searcher, given.max_megabytes)
        print(
            f"Serving {len(index.documents)} documents at "
            f"{server.address(listener)} (Ctrl-C ends)",
            flush=True,
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            log_config=None,  # its own closes the handlers there are
            timeout_graceful_shutdown=5,
        )
        # uvicorn finishes what it answers, then hands the signal on.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
        print("Stopped.")


if __name__ == "__main__":
    sys.exit(main())
