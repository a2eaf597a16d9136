"""The torch peer of generation: transformers' BLIP with our weights, one thread per core."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import traverse_util
from transformers import BlipConfig, BlipForConditionalGeneration

from vlt.convert.layouts.blip import BLIP_HF
from vlt.convert.layouts.huggingface_blip import blip_json
from vlt.convert.tables.table import to_tensors
from vlt.models.captioner import Captioner
from vlt.models.search import Search


class TorchCaptioner:
    """transformers' BLIP with our weights."""

    def __init__(self, model: Captioner, params: Mapping[str, Any], search: Search) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        leaves = traverse_util.flatten_dict(jax.device_get(dict(params)), sep="/")
        tensors, _ = to_tensors(BLIP_HF.for_kind("captioner").rules, leaves)
        self._model = BlipForConditionalGeneration(BlipConfig(**blip_json(model.spec))).eval()
        arrays = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
        # Only tied weights are missing.
        assert not self._model.load_state_dict(arrays, strict=False).unexpected_keys
        self._model.tie_weights()
        self._spec, self._search = model.spec.text, search
        self._mean, self._std = (torch.tensor(x).view(3, 1, 1) for x in (model.mean, model.std))

    @staticmethod
    def states(tokens: jax.Array) -> torch.Tensor:
        """The same tokens, as a torch tensor."""
        return torch.from_numpy(np.array(tokens))

    @torch.inference_mode()
    def encode(self, video: jax.Array) -> torch.Tensor:
        """uint8 [b, t, H, W, 3] -> tokens [b, t * n, d]."""
        images = torch.from_numpy(np.array(video)).flatten(0, 1).permute(0, 3, 1, 2)
        pixels = (images / 255.0 - self._mean) / self._std
        tokens = self._model.vision_model(pixel_values=pixels).last_hidden_state
        return tokens.reshape(len(video), -1, tokens.shape[-1])

    @torch.inference_mode()
    def generate(self, tokens: torch.Tensor) -> np.ndarray:
        """tokens [b, m, d] -> ids [b, max_length]."""
        return self._model.text_decoder.generate(
            input_ids=torch.full((len(tokens), 1), self._spec.decode_id),
            encoder_hidden_states=tokens,
            num_beams=self._search.beams,
            max_length=self._search.max_length,
            min_length=self._search.min_length,
            do_sample=False,
            eos_token_id=self._spec.end_id,
            pad_token_id=0,
        ).numpy()
