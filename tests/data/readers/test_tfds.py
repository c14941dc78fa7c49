import contextlib
import io
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mixer_jax.data.readers import tfds as reader
from mixer_jax.runtime.errors import UserError

LABELS = ["hat", "shoe", "größe"]


class Shop(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Two images per label in train, one in test."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "photo": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=LABELS),
            "title": tfds.features.Text(),
            "number": tfds.features.Scalar(np.int32),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="A test.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._examples(6), "test": self._examples(4)}

    def _generate_examples(self):
        """Required by the base class; the splits use `_examples`."""

    def _examples(self, count):
        for number in range(count):
            file = io.BytesIO()
            Image.new("RGB", (4, 4), (number, 0, 0)).save(file, "png")
            yield (
                number,
                {
                    "photo": file.getvalue(),
                    # The last test example has no label.
                    "label": -1 if number == 3 and count == 4 else number % 3,
                    "title": f"title {number} ✓",
                    "number": number,
                },
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    builder = Shop(data_dir=root, file_format="array_record")
    config = tfds.download.DownloadConfig(
        try_download_gcs=False,
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
    )
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)
    return root


@pytest.fixture
def shop(folder, prepared):
    """A `Folder` whose root contains the prepared data set."""
    folder.root = prepared
    return folder


OPTIONS = ("--name=shop", "--image=photo")


def test_splits_are_joined_and_images_are_written(shop, tmp_path):
    out = f"--out={tmp_path}/mine/table.csv"
    frame, output = shop.read("tfds", *OPTIONS, "--text=title", out)
    assert frame["category_id"].tolist() == LABELS * 3
    assert "without a label (1)" in output
    assert frame["sample_id"].tolist()[:4] == [
        "test/0",
        "test/1",
        "test/2",
        "train/0",
    ]
    image = tmp_path / "mine" / frame["image"][4]
    assert frame["image"][4] == "images/shop/train/00000001.png"
    assert Image.open(image).getpixel((0, 0)) == (1, 0, 0)
    documents = frame[frame["role"] == "document"]
    assert documents["text"].str.fullmatch("title . ✓").all()
    assert frame.groupby("category_id")["role"].nunique().tolist() == [2, 2, 2]
    times = image.stat().st_mtime_ns
    again, _ = shop.read("tfds", *OPTIONS, "--text=title", out, "--overwrite")
    assert again.equals(frame)
    assert image.stat().st_mtime_ns == times


def test_linked_data_set_is_found(folder, prepared):
    (folder.root / "shop").symlink_to(prepared / "shop")
    frame, _ = folder.read("tfds", *OPTIONS)
    assert frame["category_id"].tolist() == LABELS * 3


def test_damaged_data_set_raises_an_error(folder):
    folder.write("shop/1.0.0/dataset_info.json", "{")
    message = folder.refuse("tfds", *OPTIONS)
    assert "shop/1.0.0 cannot be read" in message


def test_own_splits_must_not_share_a_category(shop, tmp_path):
    out = f"--out={tmp_path}/table.csv"
    message = shop.refuse("tfds", *OPTIONS, "--own-splits", out)
    assert "has samples in the splits 'test' and 'train'" in message
    frame, _ = shop.read(
        "tfds", "--name=shop:1.0.0", OPTIONS[1], "--label=number", out
    )
    # Integer labels are allowed; 4 and 5 occur only in train.
    assert {"0", "1", "2"} <= set(frame["category_id"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--name=shop",),
            "has no feature 'image'; its features are label, number",
        ),
        (("--name=shop", "--image=title"), "'title' of .* is not an image"),
        (("--name=none",), "no prepared data set none in .*; found: shop;"),
        (("--name=shop:2.0.0",), "no prepared data set shop:2.0.0"),
    ],
)
def test_unknown_names_raise_an_error(shop, tmp_path, options, message):
    err = shop.refuse("tfds", *options, f"--out={tmp_path}/table.csv")
    assert re.search(message, err)


def test_changed_images_are_replaced(shop, tmp_path):
    out = tmp_path / "mine" / "table.csv"
    options = (*OPTIONS, f"--out={out}")
    frame, _ = shop.read("tfds", *options)
    image = out.parent / frame["image"][4]
    wanted = image.read_bytes()
    image.write_bytes(bytes(reversed(wanted)))
    shop.read("tfds", *options, "--overwrite")
    assert image.read_bytes() == wanted


@pytest.mark.parametrize("value", [np.zeros(2), {"a": 1}, [b"a", b"b"]])
def test_category_of_several_values_raises_an_error(value):
    features = {"label": tfds.features.Tensor(shape=(2,), dtype=np.int32)}
    with pytest.raises(UserError, match="'label' has several values"):
        reader._string(features, "label", {"label": value})


def test_unreadable_version_is_counted_as_left_out(folder, prepared):
    (folder.root / "shop").mkdir()
    (folder.root / "shop/1.0.0").symlink_to(prepared / "shop/1.0.0")
    (folder.root / "shop/9.0.0").symlink_to("nowhere")
    _, output = folder.read("tfds", *OPTIONS)
    assert "broken links (1)" in output
    refused = folder.refuse("tfds", "--name=none", "--overwrite")
    assert "found: shop; left out: broken links (1)." in refused
