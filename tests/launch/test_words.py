"""Tests that words with any characters reach a command unchanged."""

import random
import re
import shlex
import subprocess

import pytest
import yaml

# Characters with a special meaning in a shell, YAML, Kubernetes, awk or printf.
NASTY = (
    " 'it''s' \"$HOME\" `id` $(id) $$(id) \\ \\n %s & ; | < > ( ) [a] {b,c} *"
    " ? ! # ~ -x @CONFIG@ @DATA@ : é 日 "
)
RUN = {"CONFIG": f"configs/{NASTY}.py:runlocal"}
RUN |= {"WORKDIR": f"gs://my-bucket/runs/{NASTY}"}
POD = RUN | {"PROJECT": "p", "ZONE": "z", "NAME": "stage2"}
EXTRA = [f"--config.name={NASTY}", "-", "--", "", "a=b", "=a", NASTY]
TRAINING = [
    *(".venv/bin/python", "-m", "mixer_jax.main"),
    *(f"--config={RUN['CONFIG']}", f"--workdir={RUN['WORKDIR']}"),
]
PRINTABLE = [chr(n) for n in range(0x3000) if chr(n).isprintable()]


@pytest.fixture
def nasty(project):
    """A project that contains the config file named in `RUN`."""
    file = RUN["CONFIG"].removesuffix(":runlocal")
    (project.folder / file).write_text("")
    return project


def _words(output):
    """Returns the words of the commands printed by a script."""
    commands = re.findall(r"^\+ (.*(?:\n(?!\+ |\n).*)*)", output, re.M)
    return [shlex.split(command) for command in commands]


def _any_words(count):
    rng = random.Random(0)
    controls = [chr(n) for n in (*range(1, 32), 127)]
    characters = PRINTABLE + 20 * (list(r""" '"\$`*?[]~!=-;&|""") + controls)
    return [
        "".join(rng.choices(characters, k=rng.randrange(8)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_quoted_words_are_read_back(project, locale):
    words = [*_any_words(1000), *EXTRA, "\n", "a\n", "-n", "~root", "a\tb"]
    script = """
    source launch/environment.sh
    while IFS= read -r -d '' word; do
      quoted "$word" x "$word" && printf '\\0'
    done
    """
    output = subprocess.run(
        ["bash", "-c", script],
        input="".join(f"{word}\0" for word in words).encode(),
        cwd=project.folder,
        env=project.environment | {"LC_ALL": locale},
        capture_output=True,
        check=True,
    ).stdout.decode()
    lines = output.split("\0")[:-1]
    for word, line in zip(words, lines, strict=True):
        assert shlex.split(line) == [word, "x", word]
    # A different shell reads back the same words.
    back = subprocess.run(
        ["sh"],
        input="".join(f"printf '%s\\0' {line}\n" for line in lines).encode(),
        env=project.environment | {"LC_ALL": locale},
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert back.split("\0")[:-1] == [
        each for word in words for each in (word, "x", word)
    ]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_hosts_get_words_unchanged(nasty, locale):
    done = nasty.run(
        *("launch/hosts.sh", "run", "--dry-run", "--", *EXTRA),
        HOSTS="a\nme@b\t c\n",
        SSH_OPTIONS="-p 22 -o ProxyCommand='ssh -W %h:%p \"gate\"' x\\ y",
        DIRECTORY=f"/{NASTY}",
        LC_ALL=locale,
        **RUN,
    )
    assert done.returncode == 0, done.stdout
    starts = [x for x in _words(done.stdout) if " start " in x[-1]]
    assert [words[-2] for words in starts] == ["a", "me@b", "c"]
    for index, words in enumerate(starts):
        assert words[5:-2] == [
            *("-p", "22", "-o", 'ProxyCommand=ssh -W %h:%p "gate"', "x y")
        ]
        there = shlex.split(words[-1])
        assert there[:4] == ["cd", "--", f"/{NASTY}", "&&"]
        assert there[there.index("--", 4) + 1 :] == [
            *TRAINING,
            *("--coordinator=a:8476", "--processes=3", f"--process={index}"),
            *EXTRA,
        ]


def test_a_pod_gets_words_unchanged(nasty):
    done = nasty.run(
        *("launch/tpu_vm.sh", "run", "--dry-run", "--", *EXTRA), **POD
    )
    assert done.returncode == 0, done.stdout
    (words,) = _words(done.stdout)
    there = shlex.split(words[-1].removeprefix("--command="))
    assert there[there.index("--") + 1 :] == [*TRAINING, *EXTRA]
    # On the pod, the run's name is one plain word.
    (name,) = (x for x in there if x.startswith("--name="))
    assert re.fullmatch(r"--name=my-bucket-runs-[-.\w]*", name)


def test_a_pod_gets_the_data_path_unchanged(nasty):
    done = nasty.run(
        *("launch/tpu_vm.sh", "setup", "--dry-run"),
        **POD | {"DATA": f"gs://my-bucket/{NASTY}"},
    )
    assert done.returncode == 0, done.stdout
    there = shlex.split(_words(done.stdout)[-1][-1])
    assert there[-1] == f"--data=gs://my-bucket/{NASTY}"


def test_slurm_gets_words_unchanged(nasty, tmp_path):
    nodes = RUN | {"NODES": "2", "GPUS": "0"}
    done = nasty.run(
        *("launch/slurm.sh", "--dry-run", "--", *EXTRA),
        SBATCH_OPTIONS="--comment='a b' --mem=0",
        **nodes,
    )
    assert done.returncode == 0, done.stdout
    (words,) = _words(done.stdout)
    assert f"--chdir={nasty.folder}" in words
    job = words.index("launch/slurm.sh")
    assert words[job - 2 : job] == ["--comment=a b", "--mem=0"]
    assert words[job + 1 :] == ["--", *EXTRA]
    copy = tmp_path / "slurm_script"
    copy.write_bytes((nasty.folder / "launch/slurm.sh").read_bytes())
    done = nasty.run("bash", str(copy), "--dry-run", "--", *EXTRA, **nodes)
    (words,) = _words(done.stdout)
    assert words[1] == f"--workdir={RUN['WORKDIR']}"
    assert words[words.index(TRAINING[0]) :] == [*TRAINING, *EXTRA]


def test_babysit_and_worker_pass_words_unchanged(nasty):
    nasty.program("says", '#!/bin/sh\nprintf "%s\\0" "$@" >words.txt\n')
    file = nasty.folder / "words.txt"
    options = [f"--workdir={NASTY}", "--backoff=0", "--", "says"]
    done = nasty.run("launch/babysit.sh", *options, *EXTRA)
    assert done.returncode == 0, done.stdout
    assert file.read_text().split("\0")[:-1] == EXTRA
    file.unlink()
    done = nasty.run("launch/worker.sh", "start", "--", "says", *EXTRA)
    assert done.returncode == 0, done.stdout
    nasty.wait_for(nasty.folder / "runs/launch/run/exit")
    assert file.read_text().split("\0")[:-1] == EXTRA


def _expanded(word):
    """Expands a word of a container's command as Kubernetes does."""
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", word)  # a variable
    return word.replace("$$", "$")


def test_values_do_not_change_the_structure_of_the_job_set(nasty):
    words = [w for w in _any_words(500) if not re.search(r"[\x00-\x1f\x7f]", w)]
    done = nasty.run(
        *("launch/gke.sh", "render", "--", *EXTRA, *words),
        **RUN,
        NAME="stage2",
        ACCELERATOR="tpu-v5-lite-podslice",
        TOPOLOGY="16x16",
        IMAGE="my-registry/my-project/mixer_jax@sha256:1",
        DATA=f"gs://my-bucket/{NASTY}",
    )
    assert done.returncode == 0, done.stdout
    (job,) = yaml.safe_load(done.stdout)["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (data,), (train,) = pod["initContainers"], pod["containers"]
    command = [_expanded(word) for word in train["command"]]
    assert command == [*TRAINING, *EXTRA, *words]
    assert _expanded(data["command"][-2]) == f"gs://my-bucket/{NASTY}"
    assert train["image"] == "my-registry/my-project/mixer_jax@sha256:1"


@pytest.mark.parametrize(
    ("script", "variables", "words", "message"),
    [
        ("hosts.sh", {"HOSTS": "a -oProxyCommand=id"}, ["status"], "leading"),
        ("hosts.sh", {"HOSTS": "a;id"}, ["status"], "only letters"),
        ("hosts.sh", {"HOSTS": " "}, ["status"], "lists no hosts"),
        ("hosts.sh", {"NAME": "../.."}, ["status"], "only letters"),
        ("hosts.sh", {"PORT": "a[$(id)]"}, ["status"], "PORT=a[$(id)] is not"),
        ("hosts.sh", {}, ["logs", "--host=-x"], "only letters"),
        ("hosts.sh", {"SSH_OPTIONS": "-o 'a"}, ["status"], "is not closed"),
        ("gke.sh", {"NAME": "--all"}, ["delete"], "at most 40"),
        ("worker.sh", {}, ["status", "--name=../x"], "only letters"),
        ("worker.sh", {}, ["end", "--grace=a[$(id)]"], "not a whole number"),
        ("worker.sh", {}, ["end", "--grace=08"], "not a whole number"),
        ("worker.sh", {}, ["logs", "--lines=x"], "not a whole number"),
        ("worker.sh", {}, ["setup", "--extra=x"], "unknown option --extra=x"),
        ("babysit.sh", {}, ["--stop-at=08", "ls"], "is not a time"),
        (
            "tpu_vm.sh",
            POD | {"CONFIG": "con figs/a.py"},
            ["run"],
            "no such file",
        ),
        ("tpu_vm.sh", POD | {"CONFIG": "a:b/c.py"}, ["run"], "no such file"),
    ],
)
def test_invalid_values_are_rejected(
    project, script, variables, words, message
):
    done = project.run(
        f"launch/{script}", *words, **{"HOSTS": "a", **variables}
    )
    assert done.returncode == 2, done.stdout
    assert message in " ".join(done.stdout.split())
    assert "was run" not in done.stdout


def test_an_ipv6_coordinator_is_in_brackets(project):
    done = project.run(
        *("launch/hosts.sh", "run", "--dry-run"),
        HOSTS="me@fe80::1 b",
        CONFIG="configs/stage2.py",
        WORKDIR="w",
    )
    there = shlex.split(_words(done.stdout)[0][-1])
    assert "--coordinator=[fe80::1]:8476" in there


def test_scripts_find_their_project_from_anywhere(project):
    """This includes a set CDPATH, an unset HOME, and a symbolic link."""
    elsewhere = project.folder.parent / "else where"
    (elsewhere / "launch").mkdir(parents=True)
    link = elsewhere / "my link"
    link.symlink_to(project.folder / "launch/quickstart.sh")
    # If the scripts used CDPATH, `cd launch/..` would go there and print it.
    project.environment["CDPATH"] = f".:{elsewhere}"
    del project.environment["HOME"]
    folder = shlex.quote(str(elsewhere))
    for place, script in (
        (".", "launch/quickstart.sh"),
        ("launch", "./quickstart.sh"),
        ("launch", "bash quickstart.sh"),
        (folder, "./my\\ link"),
        ("..", f"bash {folder}/my\\ link"),
    ):
        done = project.run("bash", "-c", f"cd {place} && {script} --dry-run")
        assert done.returncode == 0, done.stdout
        assert f"+ {project.environment['PYTHON']}" not in done.stdout
        assert "-m mixer_jax.main" in done.stdout
        done = project.run("bash", "-c", f"cd {place} && {script} --help")
        assert "launch/quickstart.sh [--dry-run]" in done.stdout
