"""Tests of the manifests that serve.sh renders, and of the image's recipe."""

import copy
import json
import pathlib
import re
import tomllib

import jsonschema
import pytest
import yaml

from mixer_jax import serve
from mixer_jax.data.images import memory
from mixer_jax.service import server
from mixer_jax.service.batches import encoder, searching
from mixer_jax.service.http import recording, schema, settings, tracing, uploads
from mixer_jax.service.http.context import Service
from mixer_jax.service.http.keys import Keys

ROOT = pathlib.Path(__file__).parents[2]
SERVICE = {
    "NAME": "shop",
    "IMAGE": "my-registry/my-project/mixer_jax_serve:1",
    "INDEX": "http://shop-milvus:19530",
    "MODELS": "models",
    "MODEL": "stage3",
}
EVERYTHING = ("--read-key", "--write-key", "--events", "--queue")
KINDS = {
    "Deployment",
    "Service",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "NetworkPolicy",
}


def _validator(name):
    text = pathlib.Path(__file__).with_name(name).read_text(encoding="utf-8")
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    return jsonschema.Draft202012Validator(json.loads(text))


KUBERNETES = _validator("kubernetes_v1_31.schema.json")
VALUES = _validator("milvus_values.schema.json")


@pytest.fixture
def render(project):
    """Returns the manifests that serve.sh prints, by kind."""

    def run(*options, **variables):
        done = project.run(
            "launch/serve.sh", "render", *options, **SERVICE | variables
        )
        assert done.returncode == 0, done.stdout
        assert not re.search("@[A-Z_]+@", done.stdout)
        manifests = {each["kind"]: each for each in _read(done.stdout)}
        for manifest in manifests.values():
            KUBERNETES.validate(manifest)
        return manifests

    return run


def _read(text):
    return list(yaml.safe_load_all(text))


def _pod(manifests):
    return manifests["Deployment"]["spec"]["template"]["spec"]


def _container(manifests):
    (container,) = _pod(manifests)["containers"]
    return container


def _bytes(quantity):
    number, unit = re.fullmatch(r"(\d+)([MG])i", quantity).groups()
    return int(number) * 2 ** {"M": 20, "G": 30}[unit]


def _options(container, monkeypatch):
    """Returns the options that the container's command gets."""
    assert container["command"] == ["python", "-m", "mixer_jax.serve"]
    given = []
    monkeypatch.setattr(serve, "_serve", given.append)
    assert serve.main(container["args"]) == 0
    return given[0]


def test_settings_appear_in_the_manifests(render):
    manifests = render(
        "--replicas=3", "--max-replicas=7", CPUS="2", MEMORY="12Gi"
    )
    assert manifests.keys() == KINDS
    assert {m["metadata"]["name"] for m in manifests.values()} == {"shop"}
    scaler = manifests["HorizontalPodAutoscaler"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 7)
    # Applying the manifests again must not undo the autoscaler's decision.
    assert "replicas" not in manifests["Deployment"]["spec"]
    container = _container(manifests)
    assert container["image"] == SERVICE["IMAGE"]
    for kind in ("requests", "limits"):
        found = container["resources"][kind]
        assert (found["cpu"], found["memory"]) == ("2", "12Gi")


def test_the_command_understands_its_options(render, monkeypatch):
    options = _options(_container(render()), monkeypatch)
    assert options.index == "http://shop-milvus:19530"
    assert options.workdir == "/models/stage3"
    assert (options.host, options.port) == ("0.0.0.0", 8000)
    assert options.read_key is options.write_key is options.events is None
    container = _container(
        render(*EVERYTHING, "--", "--max-megapixels=20", EVENTS="events")
    )
    options = _options(container, monkeypatch)
    assert options.max_megapixels == 20
    variables = {variable["name"] for variable in container["env"]}
    for key in (options.read_key, options.write_key):
        assert key.startswith("env:")
        assert key.removeprefix("env:") in variables
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert mounts == ["/models", "/tmp", options.events]


def test_probes_ask_existing_routes(render):
    container = _container(render())
    (port,) = container["ports"]
    assert f"--port={port['containerPort']}" in container["args"]
    # A test of the service compares this document with the application.
    known = schema.document()["paths"]
    for kind, path in (
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ):
        assert container[kind]["httpGet"] == {"path": path, "port": "http"}
        assert "get" in known[path]


def test_a_replica_has_time_to_start_and_to_drain(render):
    manifests = render()
    container = _container(manifests)
    wait, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert wait == "sleep"
    drain = int(seconds) + server._GRACE + tracing._FLUSH
    assert drain + 10 <= _pod(manifests)["terminationGracePeriodSeconds"]
    # The pod becomes unready before it stops accepting connections.
    assert int(seconds) >= container["readinessProbe"]["periodSeconds"]
    start = container["startupProbe"]
    limit = start["periodSeconds"] * start["failureThreshold"]
    assert limit >= 600
    assert limit < manifests["Deployment"]["spec"]["progressDeadlineSeconds"]


def test_the_memory_limit_covers_what_the_server_may_hold(render):
    resources = _container(render())["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    defaults = settings.DEFAULTS
    # A form is copied from the request's body.
    sizes = 2 * uploads._MAX_UPLOADS * defaults.max_megabytes * uploads.MEGABYTE
    pixels = memory.BYTES_PER_PIXEL * defaults.max_pixels
    held = sizes + pixels + recording._MAX_HELD
    # The rest is for the model, and for the next one while it is loaded.
    assert 2 * held < _bytes(resources["limits"]["memory"])


def test_manifests_refer_to_each_other(render):
    manifests = render(*EVERYTHING, EVENTS="events")
    deployment = manifests["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    (spread,) = _pod(manifests)["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    budget = manifests["PodDisruptionBudget"]["spec"]
    assert budget["selector"]["matchLabels"] == labels
    policy = manifests["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target == {
        "apiVersion": manifests["Deployment"]["apiVersion"],
        "kind": "Deployment",
        "name": manifests["Deployment"]["metadata"]["name"],
    }
    (port,) = _container(manifests)["ports"]
    (outer,) = manifests["Service"]["spec"]["ports"]
    (rule,) = policy["ingress"]
    assert outer["targetPort"] == port["name"] == rule["ports"][0]["port"]
    mounts = {m["name"] for m in _container(manifests)["volumeMounts"]}
    assert mounts == {volume["name"] for volume in _pod(manifests)["volumes"]}


def test_secrets_are_only_referred_to(render):
    manifests = render(
        *EVERYTHING,
        EVENTS="events",
        SECRET="keys",
        MILVUS_TOKEN="root:hunter2",
        READ_KEY="hunter2",
    )
    assert "hunter2" not in json.dumps(manifests)
    found = {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]
        for variable in _container(manifests)["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert found == {
        "MILVUS_TOKEN": {
            "name": "keys",
            "key": "milvus-token",
            "optional": True,
        },
        "READ_KEY": {"name": "keys", "key": "read-key"},
        "WRITE_KEY": {"name": "keys", "key": "write-key"},
    }


def test_a_replica_can_write_nothing_but_temporary_files(render):
    manifests = render()
    pod, container = _pod(manifests), _container(manifests)
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    models, temporary = pod["volumes"]
    assert models["persistentVolumeClaim"] == {
        "claimName": "models",
        "readOnly": True,
    }
    assert "emptyDir" in temporary
    for mount in container["volumeMounts"]:
        assert mount.get("readOnly", False) == (mount["name"] == "models")


@pytest.mark.parametrize(
    ("index", "port"),
    [
        ("http://shop-milvus:19530", 19530),
        ("https://milvus.example.org:443/catalog#shoes", 443),
    ],
)
def test_a_replica_connects_only_to_milvus(render, index, port):
    manifests = render(INDEX=index)
    assert f"--index={index}" in _container(manifests)["args"]
    (rule,) = manifests["NetworkPolicy"]["spec"]["egress"]
    allowed = {(each["port"], each["protocol"]) for each in rule["ports"]}
    assert allowed == {(53, "UDP"), (53, "TCP"), (port, "TCP")}


def test_the_autoscaler_knows_the_queue(render):
    metrics = render()["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["Resource"]
    metrics = render("--queue")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    _, queue = (metric.get("pods") for metric in metrics)
    service = Service(None, max_megabytes=1, keys=Keys())
    service.close()
    known = {metric.name for metric in service.metrics._all}
    assert queue["metric"]["name"] in known
    # Above a full batch, and below the number at which queries are refused.
    limit = encoder.SIZE + searching.WAITING
    assert encoder.SIZE < int(queue["target"]["averageValue"]) < limit


def _misspell(manifests):
    _container(manifests)["livenesProbe"] = {}


def _number_as_text(manifests):
    manifests["HorizontalPodAutoscaler"]["spec"]["minReplicas"] = "2"


def _no_image(manifests):
    del _container(manifests)["image"]


def _no_selector(manifests):
    del manifests["Deployment"]["spec"]["selector"]


def _unknown_protocol(manifests):
    (rule,) = manifests["NetworkPolicy"]["spec"]["egress"]
    rule["ports"][0]["protocol"] = "udp"


def _unknown_unit(manifests):
    _container(manifests)["resources"]["limits"]["memory"] = "6GB"


def _old_version(manifests):
    manifests["HorizontalPodAutoscaler"]["apiVersion"] = "autoscaling/v2beta2"


def _no_port(manifests):
    manifests["Service"]["spec"]["ports"][0]["port"] = 0


def _name(manifests):
    manifests["PodDisruptionBudget"]["metadata"]["name"] = "Shop_1"


SPOIL = (
    _misspell,
    _number_as_text,
    _no_image,
    _no_selector,
    _unknown_protocol,
    _unknown_unit,
    _old_version,
    _no_port,
    _name,
)


def test_the_schema_rejects_what_the_cluster_would(render):
    good = render()
    for spoil in SPOIL:
        manifests = copy.deepcopy(good)
        spoil(manifests)
        valid = [KUBERNETES.is_valid(each) for each in manifests.values()]
        assert sum(valid) == len(KINDS) - 1, spoil


def test_apply_sends_what_render_prints(project):
    project.program("kubectl", '#!/bin/sh\necho "$@" >>kubectl.txt\n')
    done = project.run("launch/serve.sh", "apply", NAMESPACE="ml", **SERVICE)
    assert done.returncode == 0, done.stdout
    asked = (project.folder / "kubectl.txt").read_text()
    assert asked == "--namespace=ml apply --filename=runs/launch/shop.yaml\n"
    sent = (project.folder / "runs/launch/shop.yaml").read_text()
    assert sent == project.run("launch/serve.sh", "render", **SERVICE).stdout


def test_nothing_is_applied_if_rendering_fails(project):
    done = project.run("launch/serve.sh", "apply", **SERVICE | {"CPUS": "two"})
    assert done.returncode == 2
    assert "CPUS=two: expected a whole number of cores" in done.stdout
    assert "kubectl was run" not in done.stdout
    assert not (project.folder / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("render", "--follow"), "render does not use --follow; its options:"),
        (("milvus", "--events"), "its options: --dry-run --cluster."),
        (("logs", "--lines=9", "--queue"), "logs does not use --queue"),
        (("status", "--", "--watch"), "status takes no options after --."),
        (("render", "INDEX=http://-:80"), "expected http://HOST:PORT,"),
        (("render", "INDEX=http://..:80"), "expected http://HOST:PORT,"),
        (("render", "IMAGE=-x"), "IMAGE=-x: expected the name of an image"),
        (("render", "MODELS=a..b"), "where all parts between dots start"),
        (("render", "MODELS=" + "a" * 254), "use at most 253"),
        (("status", "NAMESPACE='a b'"), "use at most 63 of a-z, 0-9 and -"),
    ],
)
def test_what_a_subcommand_cannot_use_is_refused(project, words, message):
    given = [word.split("=", 1) for word in words if word[0].isupper()]
    options = [word for word in words if not word[0].isupper()]
    done = project.run("launch/serve.sh", *options, **SERVICE | dict(given))
    assert done.returncode == 2
    assert message in " ".join(done.stdout.split())
    assert "was run" not in done.stdout


def _values(project, *options):
    """Returns the values that Helm gets, and its other options."""
    project.program("helm", '#!/bin/sh\nprintf "%s\\n" "$@" >helm.txt\n')
    done = project.run("launch/serve.sh", "milvus", *options, NAME="shop")
    assert done.returncode == 0, done.stdout
    words = (project.folder / "helm.txt").read_text().splitlines()
    (file,) = (x for x in words if x.startswith("--values="))
    text = (project.folder / file.removeprefix("--values=")).read_text()
    (values,) = _read(text)
    VALUES.validate(values)
    return values, words


@pytest.mark.parametrize("options", [[], ["--cluster"]])
def test_milvus_is_installed_with_authorization(project, options):
    values, words = _values(project, *options, "--", "--set", "a.b=1")
    assert words[:4] == ["upgrade", "--install", "shop-milvus", "milvus"]
    assert words[-2:] == ["--set", "a.b=1"]
    # The chart's service has the name of the release, as in INDEX.
    assert SERVICE["INDEX"] == f"http://{words[2]}:19530"
    assert values["cluster"]["enabled"] == bool(options)
    config = yaml.safe_load(values["extraConfigFiles"]["user.yaml"])
    assert config["common"]["security"]["authorizationEnabled"]
    part = "mixCoordinator" if options else "standalone"
    (variable,) = values[part]["extraEnv"]
    # Milvus reads common.security.defaultRootPassword from this variable.
    assert variable == {
        "name": "COMMON_SECURITY_DEFAULTROOTPASSWORD",
        "valueFrom": {
            "secretKeyRef": {"name": "shop", "key": "milvus-root-password"}
        },
    }


def _recipe():
    """Returns the instructions of the Containerfile."""
    text = (ROOT / "launch/serve/Containerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line]
    return [(name, " ".join(rest.split())) for name, rest in lines]


def test_the_image_is_that_of_the_training(render):
    other = (ROOT / "launch/gke/Dockerfile").read_text(encoding="utf-8")
    (base,) = re.findall("^FROM (.*)", other, re.M)
    recipe = _recipe()
    bases = [rest.split()[0] for name, rest in recipe if name == "FROM"]
    assert set(bases) == {base}
    pod = _pod(render())
    (user,) = (rest for name, rest in recipe if name == "USER")
    context = pod["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    (entry,) = (
        json.loads(rest) for name, rest in recipe if name == "ENTRYPOINT"
    )
    assert entry == pod["containers"][0]["command"]
    (check,) = (rest for name, rest in recipe if name == "HEALTHCHECK")
    assert "http://127.0.0.1:8000/healthz" in check
    for name, rest in recipe:
        if name == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / path).exists() for path in rest.split()[:-1])


def test_the_image_has_pinned_versions_of_all_it_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"\.whl\)\[([a-z,]+)\]", str(_recipe()))
    needed = list(project["dependencies"])
    for extra in extras.split(","):
        needed += project["optional-dependencies"][extra]
    pins = (ROOT / "requirements.txt").read_text()
    pinned = {_normal(x) for x in re.findall("^([^#=]+)==", pins, re.M)}
    names = {_normal(re.match(r"[\w.-]+", each)[0]) for each in needed}
    assert names <= pinned


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()
