"""Loads the 3-D model of a product."""

from pathlib import PurePosixPath
from typing import NamedTuple

from mixer_jax.demo.furniture import catalog
from mixer_jax.demo.furniture.catalog import Product
from mixer_jax.demo.furniture.models import geometry, materials
from mixer_jax.demo.furniture.models.geometry import Mesh
from mixer_jax.demo.furniture.models.materials import Material


class UnusableModelError(Exception):
    """Raised for a model that cannot be read or has nothing to render."""


class Part(NamedTuple):
    """The part of a model that has one material."""

    mesh: Mesh
    material: Material


def load(product: Product) -> list[Part]:
    """Returns the parts of a product's model.

    Raises:
      UserError: if the catalog is damaged.
      UnusableModelError: if the model is damaged or has no faces.
    """
    contents = catalog.contents(product)
    model = PurePosixPath(product.model)
    text = contents.get(f"{model.stem}.mtl", b"").decode("latin-1")
    try:
        known = materials.read(text, contents)
        meshes = geometry.read(contents[model.name])
    except (ValueError, IndexError) as error:
        raise UnusableModelError(str(error)) from error
    if not meshes:
        raise UnusableModelError("the model has no faces")
    return [
        Part(mesh, known.get(name, Material())) for name, mesh in meshes.items()
    ]
