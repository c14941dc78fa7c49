"""Beam's counts match those of pandas, with any number of workers."""

import gzip

import numpy as np
import pandas as pd

from mixer_jax.categories import click_log

NOON = 1_767_268_800
UNTIL = NOON + 700
TWO = "--direct_num_workers=2"
THREADS = [TWO, "--direct_running_mode=multi_threading"]
PROCESSES = [TWO, "--direct_running_mode=multi_processing"]


def random_events(count=4000, seed=0):
    """Events with duplicates, separate clicks, a robot and unknown IDs."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "query_id": rng.choice(
                [*"abcdef", "?"], count, p=[0.16] * 6 + [0.04]
            ),
            "item_id": rng.choice([*map(str, range(20)), "!"], count),
            "time": NOON + rng.integers(1000, size=count),
            "clicked": rng.integers(2, size=count),
            "session": rng.choice(["", "s", "t", "u"], count),
        }
    )
    again = frame.sample(count // 10, random_state=seed)
    again["clicked"] = rng.integers(2, size=len(again))
    whole = pd.concat([frame, again], ignore_index=True)
    robot = {"session": "robot", "query_id": "a", "item_id": "1", "clicked": 1}
    robots = pd.DataFrame([robot] * 3000).assign(time=NOON + np.arange(3000))
    return pd.concat([whole, robots], ignore_index=True)


def write_shards(frame, folder):
    """Writes six files of all formats; returns their pattern."""
    folder.mkdir()
    parts = np.array_split(np.random.default_rng(1).permutation(len(frame)), 6)
    for number, rows in enumerate(parts):
        part, name = frame.iloc[rows], folder / f"part-{number}"
        if number < 2:
            text = part.to_csv(index=False)
        elif number < 4:
            text = part.to_json(orient="records", lines=True)
        else:
            part = part.assign(time=pd.to_datetime(part["time"], unit="s"))
            part.to_parquet(f"{name}.parquet", row_group_size=500)
            continue
        suffix = "csv" if number < 2 else "jsonl"
        if number % 2:
            with gzip.open(f"{name}.{suffix}.gz", "wt") as file:
                file.write(text)
        else:
            name.with_suffix(f".{suffix}").write_text(text)
    return f"{folder}/part-*"


def write_catalog(folder):
    """Writes the queries as CSV and the items as Parquet."""
    folder.mkdir(exist_ok=True)
    queries = pd.DataFrame({"query_id": [*"abcdefg"], "image": "x.png"})
    items = pd.DataFrame({"item_id": map(str, range(20)), "text": "a thing"})
    queries.to_csv(folder / "queries.csv", index=False)
    items.assign(image="").to_parquet(folder / "items.parquet")


def count_with_pandas(frame, later=None):
    """Counts clicks of known IDs; `later` limits them to one side of UNTIL."""
    frame = frame[(frame["query_id"] != "?") & (frame["item_id"] != "!")]
    if later is not None:
        frame = frame[(frame["time"] >= UNTIL) == later]
    of_session = frame["session"] != ""
    key = ["session", "query_id", "item_id", "time"]
    once = frame[of_session].groupby(key, as_index=False)["clicked"].max()
    whole = pd.concat([frame[~of_session], once])
    table = whole.groupby(["query_id", "item_id"])["clicked"]
    return table.agg(["size", "sum"]).reset_index().to_numpy().tolist()


def read(out, name="clicks"):
    return pd.read_parquet(out / f"{name}.parquet").to_numpy().tolist()


def test_counts_match_pandas(aggregate, tmp_path):
    frame = random_events()
    pattern = write_shards(frame, tmp_path / "events")
    out = tmp_path / "log"
    write_catalog(out)
    figures = aggregate(
        [pattern],
        out,
        until=UNTIL * 10**6,
        max_skipped=0.2,
        options=PROCESSES,
    )
    assert read(out) == count_with_pandas(frame, later=False)
    assert read(out, "clicks_later") == count_with_pandas(frame, later=True)
    assert figures["files"] == 6
    assert figures["clicks_pairs"] == len(read(out))
    no_query = (frame["query_id"] == "?").sum()
    no_item = ((frame["query_id"] != "?") & (frame["item_id"] == "!")).sum()
    unknown = [
        figures["events_of_unknown_queries"],
        figures["events_of_unknown_items"],
    ]
    # Duplicates with unknown IDs are counted as duplicates.
    assert 0 < unknown[0] <= no_query
    assert 0 < unknown[1] <= no_item
    assert figures["unknown_list"] == [
        f"query_id '?': {unknown[0]} events",
        f"item_id '!': {unknown[1]} events",
    ]
    exposures = [
        sum(row[2] for row in read(out, name))
        for name in ("clicks", "clicks_later")
    ]
    left = [*unknown, figures["copies"], *exposures]
    assert sum(left) == len(frame)
    assert click_log.read_folder(out).clicks["exposures"].sum() == exposures[0]
    assert sorted(path.name for path in out.iterdir()) == [
        "aggregate.json",
        "clicks.parquet",
        "clicks_later.parquet",
        "items.parquet",
        "queries.csv",
    ]


def test_long_sessions_are_left_out(aggregate, tmp_path):
    frame = random_events()
    pattern = write_shards(frame, tmp_path / "events")
    out = tmp_path / "log"
    write_catalog(out)
    figures = aggregate(
        [pattern],
        out,
        longest_session=2999,
        max_skipped=0.2,
        options=THREADS,
    )
    people = frame[frame["session"] != "robot"]
    assert read(out) == count_with_pandas(people)
    assert figures["events_of_long_sessions"] == 3000
    assert not (out / "clicks_later.parquet").exists()
