"""Opens and creates indexes, and finds their models and pictures."""

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from mixer_jax.retrieval import bundle, places, runs
from mixer_jax.retrieval import model as model_lib
from mixer_jax.retrieval.model import Model
from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean
from mixer_jax.service.items import Index
from mixer_jax.service.stores import encoding, fields, place
from mixer_jax.service.stores.interface import Place, Store
from mixer_jax.training.checkpoint.checkpoints import Trained

THUMBNAILS = 256  # pixels
_CHECKED = 1000  # maximum number of pictures checked for existence
_REBUILD = "python -m mixer_jax.index rebuild"
_REMEDY = (
    "Name its workdir with --workdir=FOLDER, or embed the items again with "
    f"{_REBUILD}"
)


def open_index(
    path: str | os.PathLike,
    model: Model | str | os.PathLike | None = None,
    *,
    images: str | os.PathLike | None = None,
    fields: Mapping[str, str] | None = None,
    storage: str = "f32",
    thumbnails: int = THUMBNAILS,
    index_kind: str = "",
    consistency: str = "",
    mesh: Mesh | None = None,
) -> Index:
    """Opens an index, or creates one if there is none.

    Args:
      path: the index's folder, or its address in Milvus, such as "./shop.db" or
        "http://localhost:19530"; see `stores.milvus.address`.
      model: the model that embeds items and queries, or its workdir, bundle or
        hub name; by default, the recorded one is loaded when needed. A new
        index needs one.
      images: the folder of the pictures; by default, the recorded one.
      fields: fields to declare, and their kinds, "text", "number" or "flag".
      storage: how a new index stores embeddings: "f32", "f16" or "int8".
      thumbnails: the side length of a new index's thumbnails, in pixels; 0 for
        none.
      index_kind: the kind of a new index in Milvus: "HNSW" (the default),
        "DISKANN" or "FLAT".
      consistency: the consistency level of searches of a new index in Milvus;
        by default "Strong".
      mesh: the devices to search on; by default all.

    Raises:
      UserError: if the index is damaged or of another format, or its
        embeddings come from another model.
    """
    where = place.find(path)
    if isinstance(model, str | os.PathLike):
        given, model = model, model_lib.load(model, mesh=mesh)
    else:
        given = None
    if not where.exists():
        if model is None:
            raise UserError(
                f"There is no index in {where.name}; name a model to create "
                "one."
            )
        properties = describe(
            model.dim,
            model.fingerprint,
            storage=storage,
            thumbnails=thumbnails,
            kinds=fields or {},
            index_kind=index_kind,
            consistency=consistency,
        ) | trained(model)
        properties |= locate(where.folder, model=given, images=images)
        _create(where, properties)
    index = open_with(path, model, images=images, mesh=mesh)
    if fields:
        index.store.declare(fields)
    return index


def _create(where: Place, properties: dict[str, Any]) -> None:
    where.check(properties)
    with where.owned(), where.draft(properties) as made:
        made.publish()


def open_with(
    path: str | os.PathLike,
    model: Model | None = None,
    *,
    workdir: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    mesh: Mesh | None = None,
) -> Index:
    """Opens an existing index; see `open_index`.

    Args:
      path: the index's folder or address.
      model: the model; None to load it when needed.
      workdir: where to load it from; by default, the recorded path.
      images: the folder of the pictures; by default, the recorded one.
      mesh: the devices to search on; by default all.
    """
    store = place.find(path).open(mesh)
    try:
        if model is not None:
            check_model(store, model.fingerprint)
        root = find_images(store, images)
        load = functools.partial(load_model, store, workdir, mesh)
        return Index(store, model, root, load)
    except BaseException:
        store.close()
        raise


def describe(
    dim: int,
    fingerprint: str,
    *,
    storage: str,
    thumbnails: int,
    kinds: Mapping[str, str],
    **options: str,
) -> dict[str, Any]:
    """Returns the properties of a new index.

    Args:
      dim: the number of elements of an embedding.
      fingerprint: the fingerprint of the model of all embeddings, or "".
      storage: how embeddings are stored; see `encoding`.
      thumbnails: the side of thumbnails in pixels; 0 for none.
      kinds: the kinds of the fields, by name.
      **options: see `stores.milvus.options`; "" is the default.

    Raises:
      UserError: if one of them is not valid.
    """
    if storage not in encoding.STORAGES:
        hint = did_you_mean(storage, encoding.STORAGES) or "."
        raise UserError(
            f"There is no storage {storage!r}{hint} Embeddings can be stored "
            f"as {', '.join(encoding.STORAGES)}."
        )
    if not 0 <= thumbnails <= 4096:
        raise UserError(
            f"The side of thumbnails is {thumbnails}; it must be from 0 to "
            "4096 pixels."
        )
    return {
        "dim": dim,
        "fingerprint": fingerprint,
        "storage": storage,
        "thumbnails": thumbnails,
        "fields": fields.declare(kinds),
        **{name: value for name, value in options.items() if value},
    }


def trained(model: Model | Trained) -> dict[str, Any]:
    """Returns the properties that describe the training of a model."""
    known = model.calibration
    return {"step": model.step, "calibration": known.dumps() if known else ""}


def locate(
    folder: pathlib.Path,
    *,
    model: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Returns the paths where a moved index finds its model and pictures."""
    where: dict[str, Any] = {"model": [], "images": []}
    if model is not None:
        name = os.fspath(model)
        found = bundle.find(name)
        if found is not None and not os.path.isdir(name):
            where["model"] = [f"hub://{name}"]
        else:
            place = found or runs.find_models(name)[-1].workdir
            where["model"] = places.save(paths.absolute(place), folder)
    if images is not None:
        root = paths.absolute(paths.local(images, "A picture"))
        where["images"] = places.save(root, folder)
    return where


def find_images(
    store: Store, images: str | os.PathLike | None = None
) -> pathlib.Path | None:
    """Returns the folder of the pictures; None if there is none.

    Raises:
      UserError: if `images` is given but is not a folder.
    """
    if images is not None:
        root = paths.local(images, "A picture")
        if not root.is_dir():
            raise UserError(
                f"There is no folder {root}; name the image folder with "
                "--images=FOLDER."
            )
        return paths.absolute(root)
    roots = places.load(store.properties.get("images", []), store.folder)
    existing = [root for root in roots if root.is_dir()]
    return (existing or roots or [None])[0]


def check_images(index: Index) -> str:
    """Returns a message about missing pictures, or ""."""
    names = index.store.images(_CHECKED)
    if index.images is None or not names:
        return ""
    return places.check_images(index.images, names)


def find_model(store: Store, remedy: str = _REMEDY) -> paths.Path:
    """Returns the recorded model: a workdir, a bundle or a hub name.

    Args:
      store: the index.
      remedy: what to do if it was moved, for the error message.

    Raises:
      UserError: if it was moved, or none was recorded.
    """
    names = store.properties.get("model", [])
    if names and names[0].startswith("hub://"):
        return bundle.find(names[0].removeprefix("hub://"))
    found = places.load(names, store.folder)
    for folder in found:
        if runs.latest_step(folder) is not None:
            return folder
    if not found:
        raise UserError(
            f"The index in {store.name} does not record where its "
            "model is; pass the model, or its workdir with --workdir=FOLDER."
        )
    raise UserError(
        f"The model of the index in {store.name} is missing: there is "
        f"no checkpoint in {' or '.join(map(str, found))}. {remedy}."
    )


def check_has_model(
    store: Store, workdir: str | os.PathLike | None = None
) -> None:
    """Raises a `UserError` if `load_model` would not find a model."""
    require_known(store)
    if workdir:
        runs.find_models(workdir)
    else:
        find_model(store)


def load_model(
    store: Store,
    workdir: str | os.PathLike | None = None,
    mesh: Mesh | None = None,
) -> Model:
    """Loads the model of an index, and checks its fingerprint.

    Args:
      store: the index.
      workdir: where the model is; by default, the recorded path.
      mesh: the devices of the model.
    """
    require_known(store)
    model = model_lib.load(workdir or find_model(store), mesh=mesh)
    check_model(store, model.fingerprint)
    return model


def check_model(store: Store, fingerprint: str) -> None:
    """Raises a `UserError` unless a model matches that of the index."""
    require_known(store)
    if fingerprint != store.fingerprint:
        raise UserError(
            f"The index in {store.name} was built with a different "
            f"model (fingerprint {store.fingerprint}, not {fingerprint}); name "
            "the workdir of its model with --workdir=FOLDER, or embed the "
            f"items again with {_REBUILD}."
        )


def require_known(store: Store) -> None:
    """Raises a `UserError` if the model of an index's embeddings is unknown."""
    if not store.fingerprint:
        raise UserError(
            f"The index in {store.name} holds vectors of an unknown "
            "model; it can only be searched by vector, and only vectors can be "
            "added."
        )
