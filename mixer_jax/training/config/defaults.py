"""The keys of a run's config, with their defaults and meanings.

A file in `configs/` starts from `defaults()` and changes what its run needs.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mixer_jax.data.images import augment
from mixer_jax.data.stream import sampling as sampling_lib
from mixer_jax.proxies import heads, margins, row_optimizers
from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import nearest
from mixer_jax.training.config import places, ranges
from mixer_jax.training.watch import profile

# Keys that may change when a run resumes; none of them affects parameters.
FREE = (
    "name",
    "init_command",
    "log_every",
    "watchdog",
    "profile",
    "sharding",
    "data.features",
    "data.image_roots",
    "data.max_skipped",
    "data.prepared",
    "data.source",
    "data.threads",
    "data.workers",
    "checkpoint.",
    "monitors.",
    "evaluate.",
)


def defaults() -> ConfigDict:
    """Returns the default config of one stage, with all keys."""
    config = ConfigDict()
    config.seed = 0  # the only source of randomness
    config.name = "stage1"  # the stage's name in logs and metrics
    config.init_from = ""  # workdir of the previous stage; "" for none
    config.init_command = ""  # command that trains init_from, for messages
    config.steps = 1000  # training steps
    config.batch_size = 128  # global; half queries, half documents
    config.precision = "bfloat16"  # for computations; parameters are float32
    config.log_every = 20  # steps between log entries
    config.watchdog = 3600.0  # seconds until a hung run is ended; 0: never
    config.profile = ""  # "FIRST:LAST" steps to profile; SIGUSR1 profiles five

    # (pattern, rule) pairs: the device layout of parameters whose path matches;
    # see training/sharding.py. () replicates all parameters.
    config.sharding = ()

    data = config.data = ConfigDict()
    data.table = ""  # path of the sample table
    data.source = ""  # builder of a missing table; see demo/sources.py
    data.split = "train"  # includes its parts, "train/..."
    data.prepared = ""  # array_record folder; "" for one next to the table
    data.image_roots = ""  # "DIR[,DIR]" that images must be in; "" for any
    data.image_size = 224  # pixels, both sides
    data.text_length = 32  # tokens; longer texts are truncated
    # "minilm", a folder or a hub name; "" for the text encoder's own tokenizer
    # if its weights come from a folder or the hub, else "minilm".
    data.tokenizer = ""
    # Encode each sample once and keep the output of frozen encoders or, if only
    # the proxies are trained, the embeddings.
    data.cached = False
    # Cache only the texts; needs a frozen text encoder without dropout.
    data.cached_text = False
    # Local folder for cached outputs; "" for one in the workdir or, if that is
    # in a bucket, in this machine's cache.
    data.features = ""
    data.augment = "strong"  # none, light, strong, mirrored, catalog
    # (field, value) pairs that change the augmentation, as in (("flip", 0.5),);
    # the fields are those of `Strength` in data/images/augment.py.
    data.augment_changes = ()
    data.sampler = "uniform"  # uniform, tempered, balanced; see data/stream
    data.temperature = 1.0  # tempered: values above 1 favor rare categories
    data.samples_per_category = 4  # balanced: per batch and role
    data.threads = 2  # decoding threads
    data.workers = 0  # decoding processes instead of threads; 0 for none
    data.max_skipped = 0.01  # share of unreadable images and unmatched samples
    data.max_pixels = 200_000_000  # larger images are not decoded

    model = config.model = ConfigDict()
    model.dim = 256  # D, the size of embeddings and proxies
    model.hidden = 512  # width of the transformation layers
    model.dropout = 0.0  # in the transformation layers
    model.drop_image = 0.0  # share of documents trained without their image
    model.drop_text = 0.0  # share of documents trained without their text
    model.init = "random"  # of the towers: random, whitened (fitted to pairs)
    model.fusion = "concept_attention"  # or another name in models/fusion.py
    model.slots = 64  # S, the number of slots in the concept memory
    model.memory_norm = "double"  # double, slots
    model.image = ConfigDict()
    model.image.name = "resnet50"  # the image encoder
    # "" for random weights; a name in models/weights/pretrained.py; or a folder
    # or hub name, whose config.json then determines the encoder.
    model.image.pretrained = ""
    model.image.hypercolumns = False  # efficientnet: outputs of all blocks
    model.image.batch_norm = "train"  # train, frozen (running statistics)
    model.image.dropout = 0.0  # for encoders that have dropout
    model.image.drop_path = 0.1  # swin: share of images that skip a block
    model.image.remat = False  # recompute activations to save memory
    model.image.chunk = 0  # images encoded at a time; 0: all; 8 suits CPUs
    model.text = ConfigDict()
    model.text.name = "bert-base"  # the text encoder
    model.text.pretrained = ""  # like model.image.pretrained
    model.text.dropout = 0.1  # in the text encoder
    model.text.remat = False  # recompute activations to save memory

    head = config.head = ConfigDict()
    head.name = "exact"  # exact, sampled, knn, topk
    head.margin = "cosface"  # cosface, arcface, normface
    head.scale = 32.0  # scales the cosines before the softmax
    head.margin_size = 0.25  # in units of the cosine; arcface: in radians
    head.margin_power = 0.0  # margins ~ count ** -power; LDAM: 0.25
    head.subcenters = 1  # proxies per category; the nearest one counts
    head.filter = 1.0  # ignore negatives with a higher cosine; 1 ignores none
    head.products = "float32"  # dtype in matrix products: float32, bfloat16
    head.wire = "float32"  # dtype sent between devices: float32, bfloat16
    head.chunk = 2048  # proxies scored at once per device; 65536 suits GPUs
    head.active = 0.1  # sampled, knn, topk: share of proxies in the active set
    head.uniform = 0.2  # knn, topk: share of the active set drawn at random
    # sampled, knn, topk: weight random rows to make the softmax sum unbiased.
    head.importance = False
    head.neighbors = 32  # knn: K of the class graph; topk: k per sample
    head.refresh = 500  # knn: steps between rebuilds of the class graph
    head.graph_products = "float32"  # knn: to select candidates for the graph

    proxies = config.proxies = ConfigDict()
    proxies.init = "random"  # random, imprint (each category's mean embedding)
    proxies.imprint_samples = 0  # maximum per category and role; 0 for all
    proxies.learning_rate = 0.1  # peak; same schedule as the optimizer's
    proxies.optimizer = "sgd"  # sgd, adagrad, adam, sgd_bf16
    proxies.momentum = 0.9  # sgd
    proxies.weight_decay = 0.0  # affects norms only: cosines ignore them
    proxies.max_norm = 0.0  # longer rows are scaled to this norm; 0: no limit

    optimizer = config.optimizer = ConfigDict()
    optimizer.learning_rate = 1e-3  # peak of the schedule
    optimizer.warmup = 0.05  # share of the steps
    optimizer.weight_decay = 1e-4  # for AdamW
    optimizer.clip_norm = 1.0  # maximum global gradient norm
    # (pattern, multiple) pairs: the first regular expression found in a
    # parameter's path scales its learning rate; 0 freezes the parameter.
    optimizer.parts = (("image_encoder", 0.1), ("text_encoder", 0.1))
    # Factor on the learning rate of an encoder layer for each layer above it.
    optimizer.layer_decay = 1.0
    # Decay of the running average of parameters that is used for inference;
    # 0.999 averages over about 1,000 steps, 0 uses the parameters themselves.
    optimizer.average = 0.0
    optimizer.max_skipped = 10  # non-finite steps in a row before the run stops

    checkpoint = config.checkpoint = ConfigDict()
    checkpoint.every = 200  # steps between saves
    checkpoint.keep = 2  # number of most recent checkpoints to keep

    monitors = config.monitors = ConfigDict()
    monitors.every = 100  # steps between checks
    monitors.on_failure = "warn"  # warn, raise (after a save)
    monitors.max_proxy_cosine = 0.5  # mean cosine between distinct proxies
    monitors.min_effective_rank = 0.1  # share of the maximum
    monitors.max_norm_ratio = 10.0  # largest to median proxy norm
    monitors.min_concept_variance = 1e-6  # variance of the concepts in a batch
    monitors.min_slot_entropy = 0.05  # share of log(S)
    monitors.min_active_recall = 0.5  # share of the ten hardest negatives
    monitors.plateau_window = 200  # steps over which the loss must decrease
    monitors.min_loss_drop = 0.01  # share of the loss, over that window

    evaluate = config.evaluate = ConfigDict()
    evaluate.table = ""  # "" for data.table
    evaluate.split = "test"  # includes its parts, "test/..."
    evaluate.distractors = "train"  # split whose documents join the gallery
    evaluate.batch_size = 256  # samples embedded at once
    evaluate.baseline_steps = 200  # training steps for each other fusion
    return config


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of a (nested) config as `{dotted key: value}`."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= {f"{key}.{k}": v for k, v in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def to_json(config: ConfigDict) -> str:
    """Returns the config as indented JSON; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_dict(values: dict[str, Any]) -> ConfigDict:
    """Returns the config from parsed JSON; lists become tuples again."""

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: restore(v) for k, v in value.items()}
        if isinstance(value, list):
            return tuple(restore(v) for v in value)
        return value

    return ConfigDict(restore(values))


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Returns `key: old -> new` for keys that a resumed run must not change.

    Paths are excluded: `origins` compares the contents instead.
    """
    old, new = (flatten(from_dict(json.loads(to_json(c)))) for c in (old, new))
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if not key.startswith(FREE)
        and key not in places.KEYS
        and old.get(key) != new.get(key)
    ]


def check_keys(config: ConfigDict, keys: Iterable[str]) -> None:
    """Checks that dotted `keys` exist in `config`.

    Raises:
      UserError: for the first key that is unknown (names similar keys) or is a
        section of keys.
    """
    known = flatten(config)
    parts = {
        k.rsplit(".", n)[0] for k in known for n in range(k.count(".") + 1)
    }
    for key in keys:
        if key in known:
            continue
        if key in parts:
            inside = [k for k in known if k.startswith(f"{key}.")]
            raise UserError(
                f"'{key}' is a section of the config; name one of its keys, "
                f"such as {inside[0]}."
            )
        near = nearest(key, known, 3)
        last = key.rsplit(".", 1)[-1]
        near += [
            k for k in known if k not in near and k.rsplit(".", 1)[-1] == last
        ][:3]
        hint = (
            f"Similar keys: {', '.join(near)}."
            if near
            else f"The top-level keys are: {', '.join(sorted(config))}."
        )
        raise UserError(f"The config has no key {key!r}. {hint}")


def check_values(
    config: ConfigDict, num_devices: int, prefix: str = "config"
) -> None:
    """Checks the values of one stage's config that do not depend on its data.

    Args:
      config: the stage's config.
      num_devices: the number of devices over which the batch is split.
      prefix: the prefix of the stage's flags, "config" or "config.STAGE".

    Raises:
      UserError: if a value is invalid; names the key, its value and the valid
        values.
    """
    with naming_stage(config, prefix):
        _check_values(config, num_devices, prefix)


@contextlib.contextmanager
def naming_stage(config: ConfigDict, prefix: str) -> Iterator[None]:
    """Names the stage in errors, if it is part of a curriculum.

    Args:
      config: the stage's config.
      prefix: the prefix of the stage's flags, "config" or "config.STAGE".
    """
    try:
        yield
    except UserError as error:
        label = f"Stage {config.name}: "
        if prefix == "config" or str(error).startswith(label):
            raise
        raise UserError(f"{label}{error}") from error


def _check_values(config: ConfigDict, num_devices: int, prefix: str) -> None:
    choices = {
        "precision": ("float32", "bfloat16"),
        "model.init": ("random", "whitened"),
        "model.memory_norm": ("double", "slots"),
        "model.image.batch_norm": ("train", "frozen"),
        "head.name": tuple(heads.HEADS),
        "head.margin": tuple(margins.MARGINS),
        "proxies.optimizer": tuple(row_optimizers.OPTIMIZERS),
        "proxies.init": ("random", "imprint"),
        "monitors.on_failure": ("warn", "raise"),
    }
    flat = flatten(config)
    for key, allowed in choices.items():
        if flat[key] not in allowed:
            raise UserError(
                f"{key} is '{flat[key]}'; it must be one of "
                f"{', '.join(allowed)}."
            )
    ranges.check(flat)
    _check_pairs(flat, prefix)
    augment.change(config.data.augment, config.data.augment_changes)
    profile.parse(config.profile)
    if config.data.features:
        paths.local(config.data.features, "data.features")
    if config.watchdog < 0:
        raise UserError(
            f"watchdog is {config.watchdog}; it must be a number of seconds, "
            "or 0 to disable it."
        )
    if config.batch_size < 1 or config.batch_size % (2 * num_devices):
        raise UserError(
            f"batch_size is {config.batch_size}; half of the batch is "
            f"queries and half is documents, each split over {num_devices} "
            f"devices, so it must be a multiple of {2 * num_devices}."
        )
    sampling_lib.check(sampling(config.data), config.batch_size)


def _check_pairs(flat: Mapping[str, Any], prefix: str) -> None:
    """Checks the keys whose values are tuples of (name, value) pairs."""
    for key, kinds, example in (
        ("sharding", str, "(('text_encoder', 'fsdp'),)"),
        ("optimizer.parts", int | float, "(('text_encoder', 0.1),)"),
        ("data.augment_changes", object, "(('flip', 0.5),)"),
    ):
        for pair in flat[key]:
            if (
                not isinstance(pair, tuple | list)
                or len(pair) != 2
                or not isinstance(pair[0], str)
                or not isinstance(pair[1], kinds)
            ):
                raise UserError(
                    f"{key} contains {pair!r}, which is not a pair; write the "
                    f'pairs as --{prefix}.{key}="{example}".'
                )
            if key == "optimizer.parts" and not 0 <= pair[1] < math.inf:
                raise UserError(
                    f"{key} contains {pair!r}; a multiple must be 0 or more."
                )


def sampling(data: ConfigDict) -> sampling_lib.Sampling:
    """Returns the sampling settings of the config's `data` section."""
    return sampling_lib.Sampling(
        data.sampler, data.temperature, data.samples_per_category
    )


def stages(config: ConfigDict) -> dict[str, ConfigDict]:
    """Returns `{stage: config}`: a curriculum's stages, or the single stage.

    Raises:
      UserError: if the curriculum is empty or names a stage without a config,
        or if the config has other keys.
    """
    if "curriculum" in config:
        there = [k for k, v in config.items() if isinstance(v, ConfigDict)]
        if other := set(config.keys()) - {"curriculum", *there}:
            raise UserError(
                f"The config of a curriculum has the key {min(other)!r}; it "
                f"belongs in the stages, as in {(*there, 'STAGE')[0]}."
                f"{min(other)}."
            )
        unknown = [name for name in config.curriculum if name not in there]
        if unknown or not config.curriculum:
            problem = f"names {unknown[0]!r}" if unknown else "is empty"
            raise UserError(
                f"curriculum {problem}; the config has the stages "
                f"{', '.join(there)}."
            )
        return {stage: config[stage] for stage in config.curriculum}
    return {config.name: config}


def curriculum(**stage_configs: ConfigDict) -> ConfigDict:
    """Returns a config whose stages run in the given order."""
    config = ConfigDict(stage_configs)
    config.curriculum = tuple(stage_configs)
    return config
