"""Every key of a run's config, its default, and what it means.

A file in `configs/` starts from `defaults()` and changes what its run needs.
"""

from ml_collections import ConfigDict


def defaults() -> ConfigDict:
    """Returns the config of one stage, with every key that exists."""
    config = ConfigDict()
    config.seed = 0  # the only source of randomness
    config.name = "stage1"  # the stage's name in logs and metrics
    config.init_from = ""  # workdir of the stage before; "" starts afresh
    config.init_command = ""  # how to make it, said when it is missing
    config.steps = 1000
    config.batch_size = 128  # global; half queries, half documents
    config.precision = "bfloat16"  # compute type; parameters stay float32
    config.log_every = 20  # steps

    data = config.data = ConfigDict()
    data.table = ""  # path of the sample table
    data.source = ""  # builds the table when it is missing; see data/sources.py
    data.split = "train"  # also takes its parts, "train/..."
    data.prepared = ""  # array_record folder; "" is next to the table
    data.image_size = 224  # pixels, both sides
    data.text_length = 32  # tokens; longer texts are cut
    data.tokenizer = "minilm"  # "minilm", a local folder or a hub name
    data.augment = "strong"  # none, light, strong
    data.threads = 2  # decoding threads
    data.max_skipped = 0.01  # share of unreadable images or lone samples

    model = config.model = ConfigDict()
    model.dim = 256  # D, of embeddings and proxies
    model.hidden = 512  # width of the transformation layers
    model.dropout = 0.0  # in the transformation layers
    model.fusion = "concept_attention"
    model.slots = 64  # S, of the concept memory
    model.memory_norm = "double"  # double, slots
    model.image = ConfigDict()
    model.image.name = "resnet50"
    model.image.pretrained = ""  # "" is random; see models/pretrained.py
    model.image.batch_norm = "train"  # train, frozen (running statistics)
    model.text = ConfigDict()
    model.text.name = "bert-base"
    model.text.pretrained = ""

    head = config.head = ConfigDict()
    head.name = "exact"  # exact, knn
    head.margin = "cosface"  # cosface, arcface, normface
    head.scale = 32.0
    head.margin_size = 0.25
    head.chunk = 8192  # proxies scored at once, a device
    head.active = 0.1  # knn: share of the proxies in the active set
    head.uniform = 0.2  # knn: share of the active set drawn at random
    head.neighbours = 32  # knn: K of the class graph
    head.refresh = 500  # knn: steps between rebuilds of the class graph

    proxies = config.proxies = ConfigDict()
    proxies.init = "random"  # random, imprint (each category's mean)
    proxies.learning_rate = 0.1
    proxies.momentum = 0.9
    proxies.weight_decay = 0.0

    optimizer = config.optimizer = ConfigDict()
    optimizer.learning_rate = 1e-3  # peak of the schedule
    optimizer.warmup = 0.05  # share of the steps
    optimizer.weight_decay = 1e-4
    optimizer.clip_norm = 1.0
    # (pattern, multiple) pairs: the first regular expression found in a
    # parameter's path sets its learning rate; a multiple of 0 freezes it.
    optimizer.parts = (("image_encoder", 0.1), ("text_encoder", 0.1))

    checkpoint = config.checkpoint = ConfigDict()
    checkpoint.every = 200  # steps
    checkpoint.keep = 2

    monitors = config.monitors = ConfigDict()
    monitors.every = 100  # steps
    monitors.on_failure = "warn"  # warn, raise (after a save)
    monitors.max_proxy_cosine = 0.5  # mean off-diagonal
    monitors.min_effective_rank = 0.1  # share of the largest possible
    monitors.max_norm_ratio = 10.0  # largest / median proxy norm
    monitors.min_concept_variance = 1e-6
    monitors.min_slot_entropy = 0.05  # share of log(S)
    monitors.min_active_recall = 0.5  # of the ten hardest negatives
    monitors.plateau_window = 200  # steps the loss slope is taken over

    evaluate = config.evaluate = ConfigDict()
    evaluate.table = ""  # "" is data.table
    evaluate.split = "test"
    evaluate.distractors = "train"  # split that joins the gallery
    evaluate.batch_size = 256
    return config
