"""Tests of the JobSet that gke.sh renders: its schema and its behavior."""

import copy
import json
import pathlib
import re

import jsonschema
import pytest
import yaml

SCHEMA = json.loads(
    pathlib.Path(__file__)
    .with_name("jobset_v1alpha2.schema.json")
    .read_text(encoding="utf-8")
)
SLICE = {
    "NAME": "stage2",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "16x16",
    "IMAGE": "my-registry/my-project/mixer_jax:1",
    "CONFIG": "configs/stage2.py",
    "WORKDIR": "gs://my-bucket/runs/stage2",
    "DATA": "gs://my-bucket/data",
}


@pytest.fixture
def render(project):
    def run(*options, **variables):
        done = project.run(
            "launch/gke.sh", "render", *options, **SLICE | variables
        )
        assert done.returncode == 0, done.stdout
        assert "@" not in done.stdout
        manifest = yaml.safe_load(done.stdout)
        _check(manifest)
        return manifest

    return run


def _check(manifest):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(
        SCHEMA, format_checker=jsonschema.FormatChecker()
    ).validate(manifest)


def _job(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    return job["template"]["spec"]


def _pod(manifest):
    return _job(manifest)["template"]["spec"]


# From https://cloud.google.com/tpu/docs/v5p and
# https://cloud.google.com/tpu/docs/tpus-in-gke: 4 chips per host, unless one
# host of v5e or v6e is the whole slice.
@pytest.mark.parametrize(
    ("accelerator", "topology", "hosts", "chips"),
    [
        ("tpu-v5-lite-podslice", "16x16", 64, 4),
        ("tpu-v5-lite-podslice", "4x4", 4, 4),
        ("tpu-v5-lite-podslice", "2x4", 1, 8),
        ("tpu-v5-lite-podslice", "1x1", 1, 1),
        ("tpu-v6e-slice", "16x16", 64, 4),
        ("tpu-v5p-slice", "4x4x4", 16, 4),
        ("tpu-v5p-slice", "2x2x1", 1, 4),
        ("tpu-v4-podslice", "2x2x2", 2, 4),
    ],
)
def test_the_topology_determines_the_hosts(
    render, accelerator, topology, hosts, chips
):
    manifest = render(ACCELERATOR=accelerator, TOPOLOGY=topology)
    job, pod = _job(manifest), _pod(manifest)
    assert job["completions"] == job["parallelism"] == hosts
    assert job["completionMode"] == "Indexed"
    (train,) = pod["containers"]
    assert train["resources"] == {
        "requests": {"google.com/tpu": chips},
        "limits": {"google.com/tpu": chips},
    }
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }


def test_settings_appear_in_the_manifest(render):
    manifest = render(
        "--spot",
        "--max-restarts=3",
        "--",
        "--config.steps=3",
        "--config.name=a b & c",
        TOPOLOGY="2x4",
        CHIPS_PER_HOST="4",
        SERVICE_ACCOUNT="trainer",
    )
    assert manifest["metadata"]["name"] == "stage2"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 3
    assert manifest["spec"]["network"]["enableDNSHostnames"]
    assert _job(manifest)["completions"] == 2
    pod = _pod(manifest)
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["serviceAccountName"] == "trainer"
    (data,), (train,) = pod["initContainers"], pod["containers"]
    assert data["command"][-2:] == ["gs://my-bucket/data", "/data"]
    assert train["image"] == SLICE["IMAGE"]
    assert train["command"] == [
        ".venv/bin/python",
        "-m",
        "mixer_jax.main",
        "--config=configs/stage2.py",
        "--workdir=gs://my-bucket/runs/stage2",
        "--config.steps=3",
        "--config.name=a b & c",
    ]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in (data, train):
        assert {m["name"] for m in container["volumeMounts"]} <= volumes


def _action(manifest, exit_code=None, condition=None):
    """Returns what the JobSet does when a pod fails in the given way.

    Follows Kubernetes' Job controller, pkg/controller/job/
    pod_failure_policy.go, and JobSet's failure policy, KEP 262.
    """
    job = _job(manifest)
    reason, message = "BackoffLimitExceeded", "Job has reached the limit"
    for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
        codes = rule.get("onExitCodes", {"operator": "In", "values": []})
        assert codes["operator"] == "In"
        conditions = [c["type"] for c in rule.get("onPodConditions", [])]
        if exit_code in codes["values"]:
            cause = (
                f"Container train for pod a/b failed with exit code {exit_code}"
            )
        elif condition in conditions:
            cause = f"Pod a/b has condition {condition}"
        else:
            continue
        reason = "PodFailurePolicy"
        message = f"{cause} matching {rule['action']} rule at index {index}"
        break
    assert reason == "PodFailurePolicy" or job["backoffLimit"] == 0
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        patterns = rule["onJobFailureMessagePatterns"]
        if reason in rule["onJobFailureReasons"] and any(
            re.search(pattern, message) for pattern in patterns
        ):
            return rule["action"]
    return "RestartJobSet"


def test_exit_codes_lead_to_the_right_actions(render):
    manifest = render()
    assert _action(manifest, 2) == "FailJobSet"
    saved = "RestartJobSetAndIgnoreMaxRestarts"
    assert _action(manifest, 75) == saved
    assert _action(manifest, 75, "DisruptionTarget") == saved
    assert _action(manifest, 137, "DisruptionTarget") == saved
    assert _action(manifest, 2, "DisruptionTarget") == "FailJobSet"
    for code in (1, 70, 137):
        assert _action(manifest, code) == "RestartJobSet"


def _misspell(manifest):
    _job(manifest)["podFailurePolicies"] = {}


def _restart_in_place(manifest):
    _pod(manifest)["restartPolicy"] = "OnFailure"


def _number_as_text(manifest):
    _job(manifest)["completions"] = "64"


def _unknown_action(manifest):
    manifest["spec"]["failurePolicy"]["rules"][0]["action"] = "Fail"


def _name_of_a_rule(manifest):
    manifest["spec"]["failurePolicy"]["rules"][0]["name"] = "wrong-input"


def _broken_pattern(manifest):
    rule = manifest["spec"]["failurePolicy"]["rules"][0]
    rule["onJobFailureMessagePatterns"] = ["index [0$"]


def _no_image(manifest):
    del _pod(manifest)["containers"][0]["image"]


@pytest.mark.parametrize(
    "spoil",
    [
        _misspell,
        _restart_in_place,
        _number_as_text,
        _unknown_action,
        _name_of_a_rule,
        _broken_pattern,
        _no_image,
    ],
)
def test_the_schema_rejects_what_the_cluster_would(render, spoil):
    manifest = copy.deepcopy(render())
    spoil(manifest)
    with pytest.raises(jsonschema.ValidationError):
        _check(manifest)


def test_apply_sends_what_render_prints(project):
    project.program("kubectl", '#!/bin/sh\necho "$@" >>kubectl.txt\n')
    done = project.run("launch/gke.sh", "apply", NAMESPACE="ml", **SLICE)
    assert done.returncode == 0, done.stdout
    asked = (project.folder / "kubectl.txt").read_text()
    assert asked == "--namespace=ml apply --filename=runs/launch/stage2.yaml\n"
    sent = (project.folder / "runs/launch/stage2.yaml").read_text()
    assert sent == project.run("launch/gke.sh", "render", **SLICE).stdout


def test_nothing_is_applied_if_rendering_fails(project):
    done = project.run("launch/gke.sh", "apply", **SLICE | {"TOPOLOGY": "3x3"})
    assert done.returncode == 2
    assert "kubectl was run" not in done.stdout
    assert not (project.folder / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("status", "--spot"), "status does not use --spot"),
        (("delete", "--lines=5"), "its options: --dry-run."),
        (("render", "--follow"), "its options: --dry-run --spot"),
    ],
)
def test_options_that_a_subcommand_cannot_use_are_refused(
    project, words, message
):
    done = project.run("launch/gke.sh", *words, NAME="stage2")
    assert done.returncode == 2
    assert message in " ".join(done.stdout.split())
    assert "was run" not in done.stdout
