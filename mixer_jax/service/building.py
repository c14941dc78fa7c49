"""Builds indexes from sample tables and embeddings, and adds rows to them."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from mixer_jax.data.tables import table
from mixer_jax.retrieval import bundle, zero_shot
from mixer_jax.retrieval.model import load_trained
from mixer_jax.retrieval.sharded import skips
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import paths, progress, results, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import counted
from mixer_jax.service import albums, opening, sources, writing
from mixer_jax.service.sources import Source
from mixer_jax.service.stores import encoding, place
from mixer_jax.service.stores.interface import Place, Store
from mixer_jax.training.checkpoint.checkpoints import Trained

_MENTIONED = 1e8  # bytes from which the size of an index is printed
_ROW = 600  # bytes per item besides its embedding and thumbnail
_THUMBNAIL = 0.1  # bytes per pixel


class Summary(NamedTuple):
    """The result of a build.

    Attributes:
      rows: the number of rows read.
      written: the number of new or changed rows.
      skipped: the rows left out.
      items: the number of items in the index.
      dim: the number of elements of an embedding.
      recall: the recall of its searches; "" if they are exact.
    """

    rows: int
    written: int
    skipped: table.Skipped
    items: int
    dim: int
    recall: str = ""

    def __str__(self) -> str:
        """Returns the size of the index for a message."""
        items = counted(self.items, "item")
        return f"{items} (vectors with {self.dim} elements)"


class Options(NamedTuple):
    """Options that `build` and `add` share.

    Attributes:
      workdir: the workdir of the model, or a bundle; "" for none.
      table: the sample table; "" for none.
      embeddings: the folder or file of embeddings; "" to compute them.
      split: the split to index; "" for all.
      images: the folder of the pictures; "" for that of the table. Without
        table and embeddings, all pictures in it are items.
      batch_size: the number of documents embedded at once.
      max_skipped: the maximum share of documents with unreadable images; None
        for the value in the model's config, or, for the pictures of a folder,
        for all but one.
    """

    workdir: str = ""
    table: str = ""
    embeddings: str = ""
    split: str = ""
    images: str = ""
    batch_size: int = 256
    max_skipped: float | None = None

    @property
    def is_album(self) -> bool:
        """Whether the items are the pictures of a folder."""
        return bool(self.images) and not self.table and not self.embeddings


def build(
    out: str | os.PathLike,
    *,
    kinds: Mapping[str, str] | None = None,
    storage: str = "f32",
    thumbnails: int = 0,
    index_kind: str = "",
    consistency: str = "",
    **given: Any,
) -> Summary:
    """Builds an index; once complete, it replaces an existing one.

    Repeating an interrupted call resumes the build. If the items are pictures
    of a folder and no model is given, published weights embed them.

    Args:
      out: the folder or the address of the index.
      kinds: the kinds of the fields, by name.
      storage: how embeddings are stored; see `stores.encoding`.
      thumbnails: the side length of thumbnails, in pixels; 0 for none.
      index_kind: see `opening.open_index`.
      consistency: see `opening.open_index`.
      **given: what to index; see `Options`.

    Raises:
      UserError: if the model, the table or the embeddings are missing or
        invalid, or too many images are unreadable.
    """
    options = Options(**given)
    look = {
        "storage": storage,
        "thumbnails": thumbnails,
        "kinds": kinds or {},
        "index_kind": index_kind,
        "consistency": consistency,
    }
    where = place.find(out)
    where.check(opening.describe(1, "", **look))
    # Look for pictures before anything is written.
    album = _open_album(options) if options.is_album else None
    with where.owned():
        if album and not options.workdir:
            options = options._replace(workdir=_save_zero_shot(where))
        trained = _load(options.workdir) if options.workdir else None
        source = album or _open(options, look["kinds"], trained)
        root = options.images or writing.common_root(source)
        properties = _identify(source, trained, look) | opening.locate(
            where.folder, model=options.workdir or None, images=root
        )
        _require_room(where, source, properties)
        with where.draft(properties) as store:
            summary = _fill(store, source, trained, options, root)
            store.publish()
            recall = store.facts().get("recall", "")
            return summary._replace(recall=recall)


def _identify(
    source: Source, trained: Trained | None, look: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns an index's properties, except those from `opening.locate`."""
    if trained is None and not source.embeddings:
        raise UserError(
            "Embedding a table needs a model; name its workdir with "
            "--workdir=FOLDER."
        )
    if trained is None:
        found = opening.describe(source.dim, source.fingerprint, **look)
        return found | {"source": source.key}
    made_by, dim = bundle.fingerprint(trained), trained.config.model.dim
    _check_embeddings(source, trained, made_by)
    found = opening.describe(dim, made_by, **look)
    return found | {"source": source.key} | opening.trained(trained)


def add(index: str | os.PathLike, **given: Any) -> Summary:
    """Writes the rows of a table or of a file of embeddings to an index.

    Rows whose image and text have not changed are not embedded again.

    Args:
      index: the index's folder or address.
      **given: what to add; see `Options`. The model and the pictures
        default to those recorded in the index.

    Raises:
      UserError: as in `build`, or if the model or the embeddings do not
        match the index.
    """
    options = Options(**given)
    with place.find(index).open() as store:
        trained = None
        if not options.embeddings:
            opening.require_known(store)
            trained = _load(options.workdir or opening.find_model(store))
            opening.check_model(store, bundle.fingerprint(trained))
        if options.is_album:
            source = _open_album(options, opening.find_images(store))
        else:
            source = _open(options, store.fields, trained)
        if trained is None:
            _check_source(store, source)
        images = "" if options.is_album else options.images
        root = opening.find_images(store, images or None)
        return _fill(store, source, trained, options, root)


def _save_zero_shot(where: Place) -> str:
    """Writes a zero-shot model into an index; returns its path.

    The index then needs no weights of another package.
    """
    folder = where.folder_of_model()
    zero_shot.from_encoders().save(folder)
    return str(folder)


def _load(workdir: str | os.PathLike) -> Trained:
    mesh = mesh_lib.make_mesh(jax.local_devices())
    return load_trained(workdir, mesh)


def _open_album(
    options: Options, root: str | os.PathLike | None = None
) -> Source:
    if options.split:
        raise UserError("A split can only be selected from a --table.")
    folder = paths.local(options.images, "A folder of pictures")
    return albums.open_source(folder, root and pathlib.Path(root))


def _open(
    options: Options, kinds: Mapping[str, str], trained: Trained | None
) -> Source:
    roots = "" if trained is None else trained.config.data.image_roots
    return sources.open_source(
        path=options.table or None,
        embeddings=options.embeddings or None,
        split=options.split,
        kinds=kinds,
        image_roots=roots,
    )


def _check_embeddings(source: Source, trained: Trained, made_by: str) -> None:
    """Checks that a source's embeddings match a model."""
    if source.fingerprint not in ("", made_by):
        raise UserError(
            f"The embeddings in {source.embeddings} come from another model "
            f"(fingerprint {source.fingerprint}); name its workdir, or leave "
            "out --workdir."
        )
    if source.dim not in (0, trained.config.model.dim):
        raise UserError(
            f"The embeddings in {source.embeddings} have {source.dim} "
            f"elements, but those of the model have "
            f"{trained.config.model.dim}; leave out --workdir."
        )


def _check_source(store: Store, source: Source) -> None:
    """Checks that embeddings can be added to an index."""
    if source.dim != store.dim:
        raise UserError(
            f"The embeddings in {source.embeddings} have {source.dim} "
            f"elements, but those of the index have {store.dim}."
        )
    if source.fingerprint and source.fingerprint != store.fingerprint:
        raise UserError(
            f"The embeddings in {source.embeddings} come from a different "
            f"model (fingerprint {source.fingerprint}) than those in the index "
            f"({store.fingerprint or 'unknown'}); embed the rows with the "
            "model of the index, or build a new index."
        )


def _require_room(where: Place, source: Source, properties: Mapping) -> None:
    if where.disk is None:
        return
    vector = encoding.size(properties["dim"], properties["storage"])
    picture = _THUMBNAIL * properties["thumbnails"] ** 2
    need = source.total * (_ROW + vector + picture)
    subject = f"The vectors of {source.total:,} rows"
    message = results.require_room(where.disk, need, subject)
    if need > _MENTIONED:
        terminal.say(message, console=terminal.Console(stderr=True))


def _fill(
    store: Store,
    source: Source,
    trained: Trained | None,
    options: Options,
    root: str | os.PathLike | None,
) -> Summary:
    """Writes all rows of a source to a store."""
    writer = writing.Writer(
        store, source, trained, root=root, batch_size=options.batch_size
    )
    share = options.max_skipped
    if share is None and source.is_album:
        share = 1 - 1 / source.total  # at least one picture must be readable
    elif share is None:
        share = trained.config.data.max_skipped if trained else 0.0
    folder = source.folder if source.is_album else None
    limit = skips.Limit(source.path, source.total, share, folder)
    rows = written = 0
    left_out = []
    with progress.show("Indexing documents", source.total) as count:
        for chunk in source.chunks():
            done = writer.write(chunk)
            left_out += done.skipped
            limit.check(left_out)
            rows, written = rows + len(chunk.frame), written + done.count
            count(len(chunk.frame))
    skipped = limit.describe(sorted(left_out))
    return Summary(rows, written, skipped, store.count(), store.dim)
