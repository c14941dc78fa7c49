"""Export of both towers as programs that JAX runs without this package.

    FOLDER/query.stablehlo     the query tower
    FOLDER/document.stablehlo  the document tower
    FOLDER/weights.npz         parameters and batch statistics, by name
    FOLDER/tokenizer.json      the tokenizer of the documents' texts
    FOLDER/towers.json         format, fingerprint, step, sizes, version of JAX
    FOLDER/README.md           how to run the programs

The programs are serialized with `jax.export`, for any batch size, on CPUs, GPUs
and TPUs. JAX guarantees that versions released within six months can load
them; keep the bundle for later exports.
"""

import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jinja2
import numpy as np
from flax import traverse_util
from jax import export as jax_export

from mixer_jax.data.stream import text
from mixer_jax.retrieval import bundle, folders
from mixer_jax.training.checkpoint.checkpoints import Trained

FORMAT = 1  # incremented on changes that affect readers
QUERY, DOCUMENT = "query.stablehlo", "document.stablehlo"
WEIGHTS, TOWERS, CARD = "weights.npz", "towers.json", "README.md"
PLATFORMS = ("cpu", "cuda", "tpu")
KIND = folders.Kind(
    "export",
    TOWERS,
    (QUERY, DOCUMENT, WEIGHTS, bundle.TOKENIZER, TOWERS, CARD),
    TOWERS,
    ("format", "fingerprint", "image_size"),
)
_CARD = jinja2.Template(
    """\
# The towers of a retrieval model

`query.stablehlo` and `document.stablehlo` were exported with JAX
{{ jax }}. JAX guarantees that they can be loaded by versions
released within the following six months; after that, export the model again
from its bundle. The programs need the packages `jax`, `numpy` and
`flatbuffers`, and run on {{ platforms }}.

```python
import numpy as np
from jax import export

weights = dict(np.load("weights.npz"))
query = export.deserialize(bytearray(open("query.stablehlo", "rb").read()))
document = export.deserialize(
    bytearray(open("document.stablehlo", "rb").read())
)
queries = query.call(weights, image)
documents = document.call(weights, image, has_image, tokens, token_mask)
cosines = queries @ documents.T
```

B is any batch size.

- `image`: uint8 [B, {{ image_size }}, {{ image_size }}, 3], RGB. The longer
  side of a picture is scaled to {{ image_size }} pixels, and the picture is
  centered on white.
- `has_image`: bool [B], whether the document has a picture; `image` is ignored
  where it has none.
- `tokens`: int32 [B, {{ text_length }}], from `tokenizer.json`, truncated and
  padded to {{ text_length }} tokens.
- `token_mask`: bool [B, {{ text_length }}], which tokens are not padding; all
  false for a document without a text.

Results are unit vectors, float32 [B, {{ dim }}]. Fingerprint of the model:
`{{ fingerprint }}`.
""",
    keep_trailing_newline=True,
)


class Export(NamedTuple):
    """The result of an export.

    Attributes:
      step: the step of the model.
      fingerprint: see `bundle.fingerprint`.
    """

    step: int
    fingerprint: str


def write(trained: Trained, folder: str | os.PathLike) -> Export:
    """Writes the towers of a model; replaces an existing export.

    Args:
      trained: the model.
      folder: the folder to write atomically.

    Raises:
      UserError: if the folder has other contents or cannot be written.
    """
    folders.check(folder, KIND)
    data, model = trained.config.data, trained.config.model
    weights = traverse_util.flatten_dict(dict(trained.variables), sep="/")
    towers = _export(trained, weights)
    tokenizer = text.load(data.tokenizer, data.text_length).to_json()
    meta = {
        "format": FORMAT,
        "fingerprint": bundle.fingerprint(trained),
        "step": trained.step,
        "dim": model.dim,
        "image_size": data.image_size,
        "text_length": data.text_length,
        "jax": jax.__version__,
        "platforms": PLATFORMS,
    }
    card = _CARD.render(meta | {"platforms": ", ".join(PLATFORMS)})

    def write_files(draft: pathlib.Path) -> None:
        for name, content in towers.items():
            (draft / name).write_bytes(content)
        with open(draft / WEIGHTS, "wb") as file:
            np.savez(file, **jax.device_get(weights))
        (draft / bundle.TOKENIZER).write_text(tokenizer, "utf-8")
        (draft / CARD).write_text(card, "utf-8")
        (draft / TOWERS).write_text(json.dumps(meta, indent=2) + "\n", "utf-8")

    folders.write(folder, KIND, write_files)
    return Export(trained.step, meta["fingerprint"])


def _export(trained: Trained, weights: dict[str, Any]) -> dict[str, bytes]:
    """Returns the serialized programs of both towers, by file name."""
    data = trained.config.data
    (batch,) = jax_export.symbolic_shape("batch")
    pixels = (batch, data.image_size, data.image_size, 3)
    tokens = (batch, data.text_length)
    image = jax.ShapeDtypeStruct(pixels, jnp.uint8)
    document = {
        "image": image,
        "has_image": jax.ShapeDtypeStruct((batch,), jnp.bool),
        "tokens": jax.ShapeDtypeStruct(tokens, jnp.int32),
        "token_mask": jax.ShapeDtypeStruct(tokens, jnp.bool),
    }
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for name, x in weights.items()
    }

    def export(method: str, inputs: dict[str, jax.ShapeDtypeStruct]) -> bytes:
        apply = functools.partial(trained.model.apply, method=method)

        def tower(weights: dict[str, jax.Array], *arrays: jax.Array):
            variables = traverse_util.unflatten_dict(weights, sep="/")
            return apply(variables, dict(zip(inputs, arrays, strict=True)))

        exported = jax_export.export(jax.jit(tower), platforms=PLATFORMS)
        return exported(shapes, *inputs.values()).serialize()

    return {
        QUERY: export("encode_query", {"image": image}),
        DOCUMENT: export("encode_document", document),
    }
