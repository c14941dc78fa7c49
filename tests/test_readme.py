"""All commands in README and docs run in a folder laid out like a clone.

They use the package of the wheel instead of the checkout's.
"""

import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import sys
import urllib.request

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

import mixer_jax

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    page.read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").glob("*.md"))
]
BLOCKS = [
    block
    for page in (README, *PAGES)
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
]
# Options that make commands faster; the rest of each command is unchanged.
SHORTER = {
    "launch/quickstart.sh": " --smoke",
    "launch/test.sh": " --dry-run",  # The CI runs the full script.
    "configs/own_data.py": (
        " --config.steps=3 --config.batch_size=16 --config.data.image_size=64"
        " --config.evaluate.batch_size=16 --config.evaluate.baseline_steps=10"
    ),
    ":runlocal": " --config.steps=4",
    "mixer_jax.experiments": (
        ' --methods="CosFace proxies, image" --trials=1 --seeds=1 --steps=2'
        " --batch-size=8 --image-size=64"
    ),
    "mixer_jax.serve": " --port=0",  # 8000 may be in use
}


def _commands(word):
    """Returns the commands of the longest block that contains a word."""
    return max((b for b in BLOCKS if word in b), key=len).strip().splitlines()


@pytest.fixture
def clone(wheel, tmp_path):
    """A clone that uses the Python environment of the tests."""
    (tmp_path / "mixer_jax").symlink_to(wheel / "mixer_jax")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "launch").mkdir()
    for script in (ROOT / "launch").glob("*.sh"):
        copy = tmp_path / "launch" / script.name
        copy.write_bytes(script.read_bytes())
        copy.chmod(0o755)
    wanted = ""
    for name in ("requirements.txt", "pyproject.toml"):
        text = (ROOT / name).read_text()
        (tmp_path / name).write_text(text)
        wanted += text
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (tmp_path / ".venv" / "installed").write_text(wanted)
    python = bin_folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def _run(command, folder):
    for word, more in SHORTER.items():
        if word in command:
            command += more
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{command}\n{output[-4000:]}"
    return output


def _environment(folder):
    return os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "120"}


def _serve_one(command, folder, picture):
    """Starts a server, searches with one image, and stops it with SIGINT."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {command} {SHORTER['mixer_jax.serve']}"],
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        output = ""
        try:
            for line in server.stdout:
                output += line
                if "Ctrl-C" in line:
                    break
            (url,) = re.findall(r"http://\S+", output) or pytest.fail(output)
            with urllib.request.urlopen(url) as page:
                assert b"</html>" in page.read()
            request = urllib.request.Request(
                f"{url}/v1/search?k=12", picture.read_bytes()
            )
            with urllib.request.urlopen(request) as answer:
                found = json.load(answer)["results"]
            server.send_signal(signal.SIGINT)
            output += server.communicate(timeout=60)[0]
        finally:
            server.kill()
    assert server.returncode == 0, output
    return found


def _draw(path, hue, shape):
    image = Image.new("RGB", (80, 60), "white")
    color = f"hsl({hue},80%,50%)"
    draw = ImageDraw.Draw(image)
    (draw.rectangle if shape else draw.ellipse)((15, 10, 65, 50), color)
    image.save(path)


def _run_five_lines(clone, model):
    """Runs the README's lines of Python with a workdir or bundle."""
    (five_lines,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for name in ("photo.png", "shoe.png"):
        _draw(clone / name, 10, 1)
    script = clone / "five_lines.py"
    script.write_text(
        five_lines.replace("runs/quickstart", model)
        + "assert cosines.shape == (1, 2), cosines\n"
    )
    _run(f".venv/bin/python {script}", clone)


def _own_data(folder):
    """Writes the images and table required by the README."""
    (folder / "pictures").mkdir(parents=True)
    samples = []
    for category in range(14):
        for role in ("query", "document"):
            name = f"{role}{category}.jpg"
            _draw(folder / "pictures" / name, category * 25, category % 2)
            titled = role == "document"
            samples.append(
                {
                    "sample_id": name,
                    "role": role,
                    "image": f"pictures/{name}",
                    "text": f"thing number {category}" if titled else "",
                    "category_id": f"c{category}",
                    "group": f"g{category % 2}",
                    "split": "test" if category < 4 else "train",
                }
            )
    pd.DataFrame(samples).to_csv(folder / "table.csv", index=False)
    return samples


def test_every_block_is_tested():
    words = ["quickstart.sh", "own_data.py", "categorize"]
    words += ["runs/quickstart/index", "stage1", "test.sh"]
    words += ["--images=pictures", "mixer_jax.experiments"]
    run = [command for word in words for command in _commands(word)]
    for block in BLOCKS:
        assert set(block.strip().splitlines()) <= set(run)


def test_commands_use_the_wheel(clone, wheel):
    show = "import mixer_jax; print(mixer_jax.__path__[0])"
    path = _run(f".venv/bin/python -c '{show}'", clone).strip()
    assert pathlib.Path(path).resolve() == (wheel / "mixer_jax").resolve()


@pytest.mark.slow
def test_quickstart_runs(clone):
    for command in _commands("quickstart.sh"):
        _run(command, clone)
    page = clone / "runs/smoke/report/index.html"
    assert "</html>" in page.read_text(encoding="utf-8")
    rows = pd.read_json(clone / "runs/smoke/metrics.json")
    assert {"mixer", "linear map", "image only"} <= set(rows.model)
    assert (clone / "runs/smoke/categories.json").is_file()
    _run_five_lines(clone, "runs/smoke")
    # Test the search here because the stages are already trained.
    index, serve = (
        command.replace("runs/quickstart", "runs/smoke")
        for command in _commands("runs/quickstart/index")
    )
    assert "items" in _run(index, clone)
    picture = next((clone / "runs/smoke/data/images/twemoji").iterdir())
    assert len(_serve_one(serve, clone, picture)) == 12
    for command in _commands("mixer_jax.experiments"):
        _run(command.replace("runs/quickstart", "runs/smoke"), clone)
    page = clone / "runs/experiments/report/index.html"
    assert "CosFace proxies" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_folder_of_pictures_is_searched_in_three_commands(clone):
    for shape, folder in enumerate(("round", "square")):
        (clone / "pictures" / folder).mkdir(parents=True)
        for hue in range(0, 360, 60):
            _draw(clone / f"pictures/{folder}/{hue}.png", hue, shape)
    install, index, serve = _commands("--images=pictures")
    assert "up to date" in _run(install, clone)
    assert "index of 12 items" in _run(index, clone)
    picture = clone / "pictures/square/120.png"
    hits = _serve_one(serve, clone, picture)
    assert len(hits) == 12
    assert hits[0]["id"] == "square/120.png"
    assert hits[0]["score"] > 0.99


@pytest.mark.slow
def test_own_data_commands_run(clone):
    samples = _own_data(clone / "mydata")
    for command in _commands("own_data.py"):
        _run(command, clone)
    _run_five_lines(clone, "runs/mydata/bundle")
    out = clone / "runs/mydata/embeddings"
    assert len(pd.read_parquet(out / "queries")) == len(samples) / 2
    rows = pd.read_parquet(out / "documents")
    embeddings = np.stack(rows["embedding"])
    lengths = np.linalg.norm(embeddings, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    model = mixer_jax.load(clone / "runs/mydata/bundle")
    documents = [s for s in samples if s["role"] == "document"]
    found = model.embed_documents(
        [clone / "mydata" / sample["image"] for sample in documents],
        [sample["text"] for sample in documents],
    )
    assert list(rows["sample_id"]) == [
        sample["sample_id"] for sample in documents
    ]
    cosines = (found * embeddings).sum(1)
    np.testing.assert_allclose(cosines, 1, atol=1e-3)
    exported = clone / "runs/mydata/proxies"
    ids = json.loads((exported / "categories.json").read_text("utf-8"))
    assert set(ids) == {f"c{category}" for category in range(4, 14)}
    assert len(np.load(exported / "proxies.npy")) == len(ids)


@pytest.mark.slow
def test_click_log_commands_run(clone):
    samples = pd.DataFrame(_own_data(clone / "mydata"))
    queries = samples[samples.role == "query"]
    items = samples[samples.role == "document"]
    log = clone / "mydata"
    queries = queries.rename(columns={"sample_id": "query_id"})
    queries[["query_id", "image"]].to_csv(log / "queries.csv", index=False)
    items = items.rename(columns={"sample_id": "item_id"})
    items[["item_id", "image", "text"]].to_csv(log / "items.csv", index=False)
    pd.DataFrame(
        {
            "query_id": list(queries.query_id) * 2,
            "item_id": list(items.item_id) + list(np.roll(items.item_id, 1)),
            "exposures": 50,
            "clicks": [30] * len(items) + [1] * len(items),
        }
    ).to_csv(log / "clicks.csv", index=False)
    for command in _commands("categorize"):
        _run(command, clone)
    found = pd.read_csv(clone / "mydata/found.csv")
    assert found.category_id.nunique() > 1


@pytest.mark.slow
def test_reference_model_commands_run(clone):
    # The limit is large enough for the active set of stage 2. The later
    # commands use the tables written here.
    few = "--limit=400 --size=64 --out=runs/local/data"
    _run(f".venv/bin/python -m mixer_jax.demo.emoji {few}", clone)
    for command in _commands("stage1"):
        assert "loss" in _run(command, clone)


def test_test_script_runs(clone):
    for command in _commands("test.sh"):
        assert "pytest" in _run(command, clone)
