"""The training loop of one stage."""

import contextlib
import functools
import os
import time
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import paths, processes, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock
from mixer_jax.training import (
    abstract_step,
    initialize,
    inputs,
    origins,
    parameter_table,
    setup,
)
from mixer_jax.training import start as start_lib
from mixer_jax.training import step as step_lib
from mixer_jax.training.cache import (
    embedding_store,
    feature_store,
    text_vectors,
)
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.checkpoint.checkpoints import Checkpoints, is_whole
from mixer_jax.training.start import Start
from mixer_jax.training.state import TrainState
from mixer_jax.training.watch import profile
from mixer_jax.training.watch.clock import (
    CHECKPOINT,
    COMPILE,
    GRAPH,
    INPUT,
    MONITORS,
    STEP,
    Clock,
)
from mixer_jax.training.watch.logs import (
    METRICS,
    TENSORBOARD,
    Logs,
    memory_used,
)
from mixer_jax.training.watch.monitors import Monitors
from mixer_jax.training.watch.profile import Profiler
from mixer_jax.training.watch.spool import Spool
from mixer_jax.training.watch.watchdog import Watchdog


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    mesh: Mesh | None = None,
    console: terminal.Console | None = None,
    prefix: str = "config",
) -> TrainState | None:
    """Trains a stage, resuming from the last checkpoint of its workdir.

    On the same devices, a resumed run ends with bit-for-bit the same parameters
    as an uninterrupted one: state and data iterator are saved together, and a
    step's randomness is derived from its number.

    Args:
      config: the config of one stage; see `config.defaults.defaults`.
      workdir: the workdir of this stage.
      mesh: the device mesh; all devices by default.
      console: the output for progress; by default standard output, in process 0
        only.
      prefix: the prefix of the stage's flags, "config" or "config.STAGE".

    Returns:
      The final state; None if the stage was already finished.

    Raises:
      UserError: if config, workdir or data are wrong, before any computation;
        after a save, if too many steps in a row were not finite, or if a
        monitor fired and the config says to stop.
      SystemExit: after a save, if the run is asked to stop; see
        `processes.Preemption`.
    """
    clock = Clock()
    # Only process 0 prints.
    quiet = jax.process_index() != 0
    console = console or terminal.Console(quiet=quiet)
    say = functools.partial(terminal.say, console=console)
    workdir = paths.make(workdir)
    mesh = mesh or mesh_lib.make_mesh()
    paths.check(workdir)
    start_lib.check(config, workdir, prefix)
    finished = start_lib.decide(config, workdir) is Start.FINISHED
    # A damaged checkpoint is set aside below, and its steps are trained again.
    if finished and is_whole(workdir, config.steps):
        workdir_lib.check_config(workdir, config, prefix)
        origins.check_names(workdir, config)
        origins.check_table(workdir, config.data, prefix)
        workdir_lib.relocate(workdir, config)
        say(
            f"{config.name}: already finished, {config.steps} steps in "
            f"{workdir}."
        )
        return None
    with folder_lock.hold(workdir, "--workdir", together=True) as owner:
        return _train(config, workdir, mesh, console, clock, owner, prefix)


def _train(
    config: ConfigDict,
    workdir: paths.Path,
    mesh: Mesh,
    console: terminal.Console,
    clock: Clock,
    owner: folder_lock.Owner,
    prefix: str,
) -> TrainState:
    """Trains a stage in a workdir that no other run uses; see `train`."""
    say = functools.partial(terminal.say, console=console)

    # ---- Check config, workdir and data.
    start = start_lib.decide(config, workdir)
    run = setup.make(config, workdir, mesh, prefix, say=say)
    categories = run.inputs.samples.category_ids
    count = len(categories)
    notes = [f"{skipped}." for skipped in run.inputs.skipped]
    if jax.process_index() == 0 and not start.has_checkpoint:
        notes += run.inputs.warnings
    for note in notes:
        say(f"{config.name}: {note}")

    # ---- Step functions, compiled at their first call.
    train_step = abstract_step.make_step(run)
    observe = step_lib.make_observe(config, run.model, run.head, count, mesh)
    monitors = Monitors(config.monitors, config.steps)

    # ---- State: from the last checkpoint, or a new one.
    origin = origins.merge(workdir, origins.describe(config, run.inputs))
    workdir_lib.prepare(workdir, config, categories, origin)
    if jax.process_index() == 0:
        parameter_table.write(run, workdir)
    say(
        f"{config.name}: {parameter_table.count(run)}; "
        f"{workdir / parameter_table.PARAMETERS} lists them"
    )
    checkpoints = Checkpoints(
        workdir, config.checkpoint.every, config.checkpoint.keep
    )
    state = position = None
    if start.has_checkpoint:
        state, position = checkpoints.restore(run.state, say)
        variables = state.variables
    else:
        variables = initialize.initial_variables(run)
    content = _content(run, workdir, variables, console)
    origins.check_content(workdir, content.content, prefix)
    iterator = content.train_batches()
    if state is None:
        state = initialize.initial_state(run, variables, content, console)
    else:
        iterator.set_state(position)
    del variables  # The state holds the same arrays, and the step donates it.
    first = int(state.step)
    sizes = inputs.margin_sizes(run.inputs, config.head)

    # ---- Loop. The order matters: observe, rebuild the graph, step; read the
    # previous step's metrics while the device computes this one; save.
    appended = [METRICS] if jax.process_index() == 0 else []
    spool = Spool(workdir, appended, say, owner.check)
    folder, size = spool.folder, config.batch_size
    log = Logs(folder, config.name, first, config.steps, size, console)
    profiler = Profiler(folder / TENSORBOARD, profile.parse(config.profile))
    pending = None  # the step whose metrics have not been read yet

    def report(step: int, metrics: dict, figures: dict) -> None:
        """Logs the metrics of a finished step; may stop the run."""
        metrics, figures = jax.device_get((metrics, figures))
        figures = {name: float(x) for name, x in figures.items()}
        log.step(step, metrics)
        monitors.record_loss(float(metrics["loss"]))
        if step % config.log_every == 0 or step == config.steps:
            log.write(**clock.split(), **memory_used(mesh))
        if figures:  # The figures were measured before the step.
            log.figures(step - 1, figures)
            for alarm in monitors.check(step, figures):
                log.say(f"{config.name}: warning: {alarm.text}", "yellow")
        if metrics["skipped"] > config.optimizer.max_skipped:
            raise UserError(
                f"{_not_finite(config, metrics)}. The state of step {step} was "
                f"saved. {_LOWER}"
            )
        if metrics["skipped"] and step == config.steps:
            log.say(f"{_not_finite(config, metrics)}. {_LOWER}", "yellow")

    def save(step: int) -> None:
        with clock.phase(CHECKPOINT), jax.transfer_guard("allow"):
            owner.check()
            spool.send(METRICS)
            checkpoints.save(step, state, iterator.get_state(), force=True)

    with (
        # Outermost, so that no signal interrupts the other exits.
        processes.Preemption() as preemption,
        checkpoints,
        contextlib.closing(iterator),
        spool,
        log,
        profiler,
        Watchdog(clock, config.watchdog),
        jax.transfer_guard("disallow"),
    ):
        for step in range(first, config.steps):
            clock.count(step)
            owner.check_heard()
            if log.failure is not None:
                preemption.ask()
            if preemption.reached():
                try:
                    if pending is not None:
                        report(*pending)
                finally:
                    save(step)
                if log.failure is not None:
                    break  # The log raises its failure on exit.
                log.say(f"{config.name}: stopped and saved at step {step}")
                raise SystemExit(processes.PREEMPTED)
            profiler.before(step, pending)
            clock.enter(INPUT)
            batch = next(iterator)
            # Waiting for input costs nothing while the device is busy.
            busy = pending and not pending[1]["loss"].is_ready()
            clock.enter(STEP, STEP if busy else INPUT)
            batch = inputs.add_margins(batch, sizes)
            batch = mesh_lib.put_batch(batch, mesh)
            figures = {}
            if step and step % config.monitors.every == 0:
                with clock.phase(MONITORS):
                    figures = observe(state, batch)
            if step and step % config.head.refresh == 0:
                state = _rebuild_graph(run, state, step, log, clock)
            with clock.phase(COMPILE if step == first else STEP):
                state, metrics = train_step(state, batch)
            before, pending = pending, (step + 1, metrics, figures)
            due = checkpoints.due(step + 1) or step + 1 == config.steps
            try:
                if before is not None:
                    report(*before)
                if due:  # The log must include the checkpoint's step.
                    report(*pending)
                    pending = None
            except UserError:
                save(step + 1)
                raise
            if due:
                save(step + 1)
        clock.count(config.steps)
        clock.enter(CHECKPOINT)  # On exit, `checkpoints` waits for its saves.
    return state


_LOWER = (
    "Start again in another --workdir, with a lower optimizer.learning_rate or "
    "proxies.learning_rate, or with precision='float32'."
)


def _not_finite(config: ConfigDict, metrics: dict) -> str:
    """Returns a message with the number of steps skipped in a row."""
    count = int(metrics["skipped"])
    last = f"last {count} steps" if count > 1 else "last step"
    skipped = "their updates were" if count > 1 else "its update was"
    return (
        f"{config.name}: the {last} had a non-finite loss or gradient; "
        f"{skipped} skipped"
    )


def _rebuild_graph(
    run: setup.Setup, state: TrainState, step: int, log: Logs, clock: Clock
) -> TrainState:
    """Returns the state with a new class graph; logs the time it took.

    Timing needs an idle device before and after. Once every `head.refresh`
    steps, the host therefore waits for the device, for less than a step's time.
    """
    if state.graph is None:
        return state
    jax.block_until_ready(state.proxies)
    begin = time.monotonic()
    with clock.phase(GRAPH):
        graph = jax.block_until_ready(run.head.build_graph(state.proxies))
    log.graph(step, time.monotonic() - begin)
    return state.replace(graph=graph)


def _content(
    run: setup.Setup,
    workdir: paths.Path,
    variables: Any,
    console: terminal.Console,
) -> inputs.Content:
    """Returns cached features if `data.cached` is set, else the samples.

    The cache holds embeddings if only the proxies are trained, and outputs of
    the encoders otherwise. With `data.cached_text`, it replaces only the texts.
    """
    say = functools.partial(terminal.say, console=console)
    store = feature_store if any(run.rates.values()) else embedding_store
    if not run.config.data.cached:
        if not setup.stores_text(run):
            return inputs.Pictures(run.inputs, run.config)
        store = text_vectors
    folder = workdir_lib.features_folder(workdir, run.config)
    if store is text_vectors:
        folder = folder.with_name(f"{folder.name}-text")
    # Other runs may share the folder, but not while it is being filled.
    with folder_lock.hold(
        folder.parent, "--config.data.features", part=f"-{folder.name}"
    ):
        made = store.make(
            folder,
            run.inputs,
            run.config,
            run.model,
            variables,
            run.mesh,
            lambda text: say(f"{run.config.name}: {text}"),
        )
    if isinstance(made, text_vectors.TextVectors):
        return inputs.Pictures(run.inputs, run.config, made)
    return made
