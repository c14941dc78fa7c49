"""The model card of a bundle: architecture, training, metrics and limits.

The front matter and the sections follow the conventions of the Hugging Face
hub.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from ml_collections import ConfigDict

from mixer_jax.retrieval import calibration
from mixer_jax.retrieval.metrics import DEFINITIONS

# Row keys whose values are shown unchanged.
_COLUMNS = ["stage", "split", "gallery", "queries", "documents"]
_TEMPLATE = jinja2.Environment(
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
).from_string("""\
---
library_name: mixer_jax
pipeline_tag: image-feature-extraction
license: unknown  # fill in the license of the weights
tags: [image-retrieval, multi-modal-retrieval, mixer]
---

# {{ name }}

Embeds a query, which is an image, and a document, which is an image, a text or
both, into one space of {{ model.dim }} dimensions. The higher the cosine of two
embeddings, the more likely the query shows what the document offers.

```python
import mixer_jax

model = mixer_jax.load("PATH/OF/THIS/FOLDER")
queries = model.embed_queries(["photo.jpg"])
documents = model.embed_documents(["shoe.jpg"], ["a red shoe"])
cosines = queries @ documents.T
```

## Model

| | |
|---|---|
| image encoder | {{ model.image.name }} |
| text encoder | {{ "none" if ignores_text else model.text.name }} |
| fusion | {{ model.fusion }} |
| image size | {{ data.image_size }} x {{ data.image_size }} pixels |
| text length | {{ data.text_length }} tokens |
| precision | {{ precision }} |
| fingerprint | `{{ meta.fingerprint }}` |

## Training

{% if meta.categories %}
Trained for {{ "{:,}".format(meta.step) }} steps of {{ batch_size }} samples to
classify queries and documents by {{ "{:,}".format(meta.categories) }}
categories ({{ head.name }} softmax over proxies, {{ head.margin }} margin
{{ head.margin_size }}, scale {{ head.scale }}).
{% else %}
Published encoder weights, without any training.
{% endif %}

## Training data

Describe the data and its license here.

## Evaluation

{% if rows %}
Measured on categories not used for training; each query ranks all documents
of a gallery.

| {{ (columns + titles) | join(" | ") }} |
|{% for _ in columns + titles %}---|{% endfor %}

{% for row in rows %}
| {{ (row.cells + row.figures) | join(" | ") }} |
{% endfor %}

{% for title, definition in definitions %}
- **{{ title }}**: {{ definition }}
{% endfor %}
{% else %}
None yet; run `python -m mixer_jax.evaluate` to evaluate the model.
{% endif %}

## Calibration

{% if calibration %}
`config.json` maps the cosine of a query and an answer to the probability that
both are in one category, with one map for the nearest answer and one for all
others. They were fitted to the {{ answers }} nearest answers to each of
{{ "{:,}".format(calibration.queries) }} queries, in a catalog of
{{ "{:,}".format(calibration.documents) }} documents. On queries that were not
used for the fit, the expected calibration error is **{{ error }}**, and
**{{ first_error }}** for nearest answers alone. Probabilities are lower in a
larger catalog; `python -m mixer_jax.index calibrate` fits maps for an index.
{% else %}
None: answers have scores, but no probabilities. The evaluation calibrates a
model if it has at least {{ min_queries }} queries.
{% endif %}

## Intended use and limits

Searching a catalog by picture. Similar embeddings do not prove that two
pictures show the same thing; categories and styles that differ from the
training data may be embedded poorly.

## Citation

The method is that of *Mixer* (arXiv 2305.03972). The equations and settings are
mixer_jax's own interpretation of it.
""")


def render(
    meta: Mapping[str, Any],
    config: ConfigDict,
    measures: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Returns the model card as Markdown.

    Args:
      meta: `fingerprint`, `step`, `categories` and `calibration`; see
        `bundle`.
      config: the config of the stage.
      measures: rows from `retrieval.evaluate`.
    """
    rows = [
        {
            "cells": [row[name] for name in _COLUMNS],
            "figures": [_percent(row.get(key)) for key, _, _ in DEFINITIONS],
        }
        for row in measures
    ]
    known = meta.get("calibration") or {}
    return _TEMPLATE.render(
        name=f"{config.name} ({config.model.fusion})",
        meta=meta,
        model=config.model,
        ignores_text=config.model.fusion in ("image_only", "mean_patches"),
        data=config.data,
        head=config.head,
        precision=config.precision,
        batch_size=config.batch_size,
        rows=rows,
        calibration=known,
        answers=calibration.ANSWERS,
        error=_percent(known.get("error")),
        first_error=_percent(known.get("first_error")),
        min_queries=calibration.MIN_QUERIES,
        columns=_COLUMNS,
        titles=[title for _, title, _ in DEFINITIONS],
        definitions=[(title, text) for _, title, text in DEFINITIONS],
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
