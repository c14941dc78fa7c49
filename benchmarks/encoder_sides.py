"""Contenders of the encoder benchmark: ours and the originals in PyTorch.

Both have the same random weights and read the same inputs, in f32. A pass is
`forward`, in evaluation mode and without gradients, or `forward+backward`, the
gradient of the outputs' mean square with respect to all parameters. The latter
has no dropout, but batch norms use the statistics of the batch, as in training.
"""

import dataclasses
import pathlib
import tempfile
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from benchmarks import partial_fc_torch
from mixer_jax.models.encoders import bert, resnet, swin, vit

FORWARD, BACKWARD = PASSES = ("forward", "forward+backward")

MODELS = {
    name: (family, encoder)
    for family, encoder in (
        (bert, bert.Bert),
        (resnet, resnet.ResNet),
        (vit, vit.ViT),
        (swin, swin.Swin),
    )
    for name in family.CONFIGS
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Encoder and input sizes of both contenders.

    Attributes:
      model: a key of `MODELS`.
      batch: images or texts per batch.
      size: side of an image in pixels, or tokens per text.
    """

    model: str
    batch: int
    size: int

    @property
    def family(self) -> ModuleType:
        """The module of the encoder."""
        return MODELS[self.model][0]

    @property
    def config(self) -> Any:
        """The encoder's config."""
        return self.family.CONFIGS[self.model]

    @property
    def is_text(self) -> bool:
        """Whether the encoder reads texts."""
        return hasattr(self.config, "vocabulary")

    @property
    def items(self) -> int:
        """The number of images or tokens per pass."""
        return self.batch * (self.size if self.is_text else 1)

    def inputs(self) -> tuple[np.ndarray, ...]:
        """Returns uint8 images, or tokens and a mask without padding."""
        rng = np.random.default_rng(0)
        if self.is_text:
            shape, limit = (self.batch, self.size), self.config.vocabulary
            tokens = rng.integers(self.config.padding + 1, limit, shape)
            return tokens.astype(np.int32), np.ones(shape, bool)
        shape = (self.batch, self.size, self.size, 3)
        return (rng.integers(0, 256, shape, np.uint8),)


class Ours:
    """Our encoder, on the first device.

    Attributes:
      variables: the encoder's variables; None before `place`.
      flops: floating point operations of each compiled pass.
    """

    def __init__(self, problem: Problem):
        self._problem = problem
        config, encoder = problem.config, MODELS[problem.model][1]
        self._model = encoder(config)
        self._inputs = jax.device_put(problem.inputs())
        self._shapes = jax.eval_shape(
            self._model.init, jax.random.key(0), *self._inputs
        )
        self._compiled = {}
        self.flops = {}
        self.variables = None

    def compile(self, name: str) -> None:
        """Compiles a pass."""
        step = jax.jit(self._forward if name == FORWARD else self._backward)
        with jax.default_matmul_precision("highest"):  # no TF32
            self._compiled[name] = step.lower(
                self._shapes, self._inputs
            ).compile()
        # Count FLOPs before compilation, which may insert opaque library
        # calls, and on the CPU, because the GPU client does not count them.
        inputs = jax.eval_shape(lambda: self._inputs)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            counted = step.lower(self._shapes, inputs).cost_analysis()
        self.flops[name] = counted["flops"]

    def place(self, tensors: dict[str, np.ndarray] | None = None) -> None:
        """Loads the original's weights, or constants if `tensors` is None."""
        if tensors is None:
            self.variables = jax.tree.map(
                lambda x: jnp.full(x.shape, 0.01, x.dtype), self._shapes
            )
            return
        self.variables = self._problem.family.KEYS.load(
            tensors, self._shapes, f"of the original {self._problem.model}"
        )

    def run(self, name: str) -> jax.Array:
        """Runs a pass; returns the outputs, or their mean square."""
        out = self._compiled[name](self.variables, self._inputs)
        return jax.block_until_ready(out)[0]

    def _forward(self, variables, inputs):
        return (self._model.apply(variables, *inputs),)

    def _backward(self, variables, inputs):
        rest = {name: x for name, x in variables.items() if name != "params"}

        def loss(params):
            out, changed = self._model.apply(
                {**rest, "params": params},
                *inputs,
                train=bool(rest),  # for batch norms only
                mutable=list(rest),
            )
            return jnp.square(out).mean(), changed

        (value, changed), gradients = jax.value_and_grad(loss, has_aux=True)(
            variables["params"]
        )
        return value, changed, gradients


def original(problem: Problem) -> tuple[type, Any]:
    """Imports the original encoder; returns its class and its config."""
    import transformers

    written = problem.family.to_original(problem.config)
    kind = getattr(transformers, written["architectures"][0])
    return kind, transformers.AutoConfig.for_model(**written)


class Peer:
    """The original encoder, on the GPU if torch finds one."""

    def __init__(self, problem: Problem):
        import torch

        kind, config = original(problem)
        self._device = partial_fc_torch.device()
        torch.backends.cudnn.allow_tf32 = False
        torch.manual_seed(0)
        with torch.device(self._device):
            self._model = kind(config).eval()
        self._norms = [
            module
            for module in self._model.modules()
            if isinstance(module, torch.nn.BatchNorm2d)
        ]
        self._inputs = {
            name: torch.from_numpy(x).to(self._device)
            for name, x in self._named_inputs(problem).items()
        }
        # Position embeddings must be resized for other image sizes.
        stored = getattr(problem.config, "image_size", problem.size)
        if not problem.is_text and stored != problem.size:
            self._inputs["interpolate_pos_encoding"] = True

    @staticmethod
    def _named_inputs(problem: Problem) -> dict[str, np.ndarray]:
        if problem.is_text:
            tokens, mask = problem.inputs()
            return {"input_ids": tokens.astype(int), "attention_mask": mask}
        (images,) = problem.inputs()
        mean, std = np.float32((problem.config.mean, problem.config.std))
        pixels = ((images - mean) / std).transpose(0, 3, 1, 2)
        return {"pixel_values": np.ascontiguousarray(pixels)}

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns the weights by their names in the original's checkpoints."""
        import transformers

        transformers.utils.logging.disable_progress_bar()
        with tempfile.TemporaryDirectory() as folder:
            self._model.save_pretrained(folder, max_shard_size="1TB")
            return load_file(pathlib.Path(folder) / "model.safetensors")

    def run(self, name: str) -> Any:
        """Runs a pass; returns the outputs, or their mean square."""
        import torch

        forward = name == FORWARD
        for norm in self._norms:
            norm.train(not forward)
        self._model.zero_grad()
        with torch.inference_mode(forward):
            out = self._model(**self._inputs).last_hidden_state
            if not forward:
                out = out.square().mean()
                out.backward()
        if self._device == "cuda":
            torch.cuda.synchronize()
        return out.detach()
