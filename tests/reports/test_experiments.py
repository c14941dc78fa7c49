"""The page of experiments, from rows of known figures."""

import json

import numpy as np
import pytest

from mixer_jax import report
from mixer_jax.experiments import ranking, results_log, suites
from mixer_jax.reports import bootstrap, experiments, scores
from mixer_jax.runtime.errors import UserError

BUDGET = {"trials": 2, "seeds": 2, "steps": 10, "pairs": 8}
HYPER = {"learning_rate": 0.001}


def row(method, ranks, *, seed=1, fold="a", kind="final", **changes):
    """Returns the row of a run with 10 queries of five categories."""
    made = {
        "kind": kind,
        "key": f"{method} {seed} {fold} {kind}",
        "suite": "main",
        "section": "Losses",
        "method": method,
        "data": "emoji",
        "fold": fold,
        "content": "c",
        "settings": {},
        "hyper": HYPER,
        "seed": seed,
        "budget": BUDGET,
        "queries": len(ranks),
        "documents": 30,
        "parts": {"test/a": [3.0, 4], "test/b": [1.0, 2]},
        "measures": {
            "identical_at_1": float(np.mean(np.array(ranks) == 1)),
            **dict.fromkeys(("identical_at_5", "map_at_r", "mrr"), 0.5),
        },
        "figures": {"train_seconds": 2.0, "step_ms": 5.0},
    }
    if kind == "final":
        made["ranks"] = ranking.pack(np.array(ranks))
        made["categories"] = ranking.pack(np.arange(len(ranks)) // 2)
    return made | changes


OURS = [1, 1, 1, 1, 2, 1, 1, 1, 1, 1]
OTHER = [1, 3, 1, 2, 2, 1, 1, 1, 1, 9]
WORSE = [1, 3, 1, 2, 2, 1, 2, 1, 1, 9]


@pytest.fixture
def rows():
    return [
        row("triplets", OTHER, kind="trial", seed=0),
        row("triplets", OTHER),
        row("triplets", WORSE, seed=2),
        row(suites.OURS, OURS),
        row(suites.OURS, OURS, seed=2),
        row("frozen encoders", WORSE, section="Floors", hyper={}),
    ]


def write(folder, rows):
    text = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / results_log.NAME).write_text(text)


def test_page_has_every_method(rows, tmp_path, capsys):
    write(tmp_path, rows)
    assert report.main([f"--experiments={tmp_path}"]) == 0
    assert "Wrote" in capsys.readouterr().out
    page = (tmp_path / "report" / "index.html").read_text()
    for method in ("triplets", suites.OURS, "frozen encoders"):
        assert f'<th scope="row">{method}</th>' in page
    assert "10 test queries of 5 categories rank up to 30 documents" in page
    assert page.count('role="img"') == 2  # one plot per section
    assert '<th scope="col">test/b</th>' in page
    assert "<td>60.0</td><td>learning_rate 0.001</td>" in page


def test_interrupted_folds_are_left_out(rows, tmp_path):
    rows.append(row("triplets", OTHER, kind="trial", seed=0, fold="b"))
    write(tmp_path, rows)
    assert report.main([f"--experiments={tmp_path}"]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<td>60.0</td><td>learning_rate 0.001</td>") == 1


def test_methods_with_fewer_folds_are_marked_and_never_best(rows, tmp_path):
    rows.append(row("triplets", [2] * 10, fold="b"))
    rows.append(row(suites.OURS, [2] * 10, fold="b"))
    write(tmp_path, rows)
    assert report.main([f"--experiments={tmp_path}"]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    mark = "frozen encoders <small>(1 of 2 folds)</small>"
    assert page.count(f'<th scope="row">{mark}</th>') == 2  # and by part
    assert "20 test queries of 10 categories" in page
    # The others have 45.0 and 30.0 over both folds.
    assert "<td><b>45.0</b></td>" in page
    assert "<td>50.0</td>" in page


def test_figures_are_means_over_seeds(rows):
    one = scores.score(rows[:3])
    assert one.by_seed == [0.6, 0.5]
    assert one.measures["identical_at_1"] == pytest.approx(0.55)
    assert one.hits.tolist() == [1, 0, 1, 0, 0, 1, 0.5, 1, 1, 0]
    ours = scores.score(rows[3:5])
    section = experiments.make_section(
        "Losses",
        ["triplets", suites.OURS],
        {"triplets": one, suites.OURS: ours},
    )
    found = {
        line.method: [c.text for c in line.cells] for line in section.lines
    }
    value, low, high = bootstrap.compare(one.hits, ours.hits, one.categories)
    assert value == pytest.approx(-0.35)
    assert low < value < high < 0
    difference = f"-{35.0} [{100 * low:.1f}, {100 * high:.1f}]"
    difference = difference.replace("-", "\N{MINUS SIGN}")
    assert found["triplets"] == [
        *("55.0", "50.0", "50.0", "50.0", "7.1"),
        *(difference, "2.0"),
    ]
    assert found[suites.OURS][0] == "90.0"
    assert [line.ours for line in section.lines] == [False, True]


def test_only_runs_like_the_last_are_shown(rows):
    others = [
        row("triplets", WORSE, content="other", key="1"),
        row("triplets", WORSE, budget=BUDGET | {"steps": 9}, key="2"),
        row("triplets", WORSE, hyper={"learning_rate": 0.5}, key="3"),
    ]
    assert experiments.render("page", others + rows, "file") == (
        experiments.render("page", rows, "file")
    )


def test_heads_are_compared_with_the_exact_head():
    def head(method, step, ranks, /, **settings):
        return row(
            method,
            ranks,
            section="Active sets",
            settings={"head": list(settings.items())},
            figures={"train_seconds": 1.0, "step_ms": step, "active": 0.1},
        )

    page = experiments.render(
        "page",
        [
            row(suites.OURS, OURS, section="Parts"),
            head(suites.EXACT, 9.0, OURS, name="exact"),
            head("knn head, K = 8", 4.0, OTHER, name="knn", neighbors=8),
            head("knn head, K = 9", 5.0, OURS, name="knn", neighbors=9),
        ],
        "file",
    )
    assert "Identical@1 against the time per step" in page
    assert "knn, M = 10%" in page
    assert f"Difference to “{suites.EXACT}”" in page


def test_damage_is_explained(rows, tmp_path, capsys):
    folder = f"--experiments={tmp_path}"
    assert report.main([folder]) == 2
    assert "has no finished method" in capsys.readouterr().err
    write(tmp_path, rows)
    path = tmp_path / results_log.NAME
    with path.open("a") as file:
        file.write('{"kind": "fin')
    before = path.read_bytes()
    assert report.main([folder]) == 0
    assert "last line is incomplete" in capsys.readouterr().out
    assert path.read_bytes() == before
    write(tmp_path, ["nonsense", *rows])
    assert report.main([folder]) == 2
    assert "Line 1 of" in capsys.readouterr().err
    for damage in ({"ranks": "?"}, {"categories": None}, {"measures": {}}):
        with pytest.raises(UserError, match="without the expected values"):
            experiments.render("page", [rows[1] | damage], path)


def test_other_options_belong_to_other_reports():
    for more in ("--table=t.csv", "--truth=t.csv", "--workdir=w"):
        with pytest.raises(SystemExit) as ended:
            report.main(["--experiments=e", more])
        assert ended.value.code == 2
