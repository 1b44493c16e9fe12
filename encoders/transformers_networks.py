"""Networks that transformers runs: BERT-like, GPT-like, both towers of CLIP and SigLIP, pictures' own.

The only file that imports transformers, which takes seconds: the default encoders need none of it. Code that comes with
weights is never run. Of CLIP and SigLIP, the projections into the space of pictures and words are applied to each place
and each word piece, too: CLIP's is linear, and SigLIP's pools a place as if it were the whole picture.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.folder_recipes import DECODERS
from encoders.recipes import Weights

if TYPE_CHECKING:
    from torch import Tensor

UNUSED = ("pooler.", "visual_projection.", "text_projection.", "logit_")  # may be lacking


class TransformersText:
    """A text network (encoders.networks)."""

    def __init__(self, states: "Callable[[Tensor, Tensor], Tensor]") -> None:
        self.states = states


class TransformersPictures:
    """A picture network (encoders.networks)."""

    def __init__(self, width: int, places: "Callable[[Tensor], Tensor]", pooled: "Callable[[Tensor], Tensor]") -> None:
        self.centre: NDArray[np.float32] = np.zeros(width, np.float32)
        self.places = places
        self.pooled = pooled


def load_text_network(weights: Weights, *, device: str) -> TransformersText:
    """Raises ValueError if the files lack arrays of the architecture, whatever the reader raises otherwise."""
    model = _load(weights)
    if weights.architecture in ("clip", "siglip"):
        del model.vision_model
    model.to(device)

    def clip(ids: "Tensor", mask: "Tensor") -> "Tensor":
        states = model.text_model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return model.text_projection(states)  # type: ignore[no-any-return]

    def siglip(ids: "Tensor", _mask: "Tensor") -> "Tensor":  # it was taught to see the padding
        return model.text_model.head(model.text_model(input_ids=ids).last_hidden_state)  # type: ignore[no-any-return]

    def decoder(ids: "Tensor", mask: "Tensor") -> "Tensor":
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)  # of the words, wherever the padding is
        told = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False)
        return told.last_hidden_state  # type: ignore[no-any-return]

    def encoder(ids: "Tensor", mask: "Tensor") -> "Tensor":
        return model(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # type: ignore[no-any-return]

    towers = {"clip": clip, "siglip": siglip}
    return TransformersText(towers.get(weights.architecture, decoder if weights.architecture in DECODERS else encoder))


def load_picture_network(weights: Weights, *, device: str) -> TransformersPictures:
    """Raises as load_text_network."""
    model = _load(weights)
    if weights.architecture in ("clip", "siglip"):
        del model.text_model
    model.to(device)

    def map_places(pixels: "Tensor") -> "Tensor":
        return model(pixel_values=pixels).last_hidden_state  # type: ignore[no-any-return]

    def map_pooled(pixels: "Tensor") -> "Tensor":
        return map_places(pixels).float().mean((2, 3))

    def class_first_places(pixels: "Tensor") -> "Tensor":
        return _grid(model(pixel_values=pixels).last_hidden_state[:, 1:])

    def class_first_pooled(pixels: "Tensor") -> "Tensor":
        return model(pixel_values=pixels).last_hidden_state[:, 0].float()  # type: ignore[no-any-return]

    def clip_states(pixels: "Tensor") -> "Tensor":
        states = model.vision_model(pixel_values=pixels).last_hidden_state  # (B, 1 + N, hidden)
        return model.visual_projection(model.vision_model.post_layernorm(states))  # type: ignore[no-any-return]

    def clip_places(pixels: "Tensor") -> "Tensor":
        return _grid(clip_states(pixels)[:, 1:])

    def clip_pooled(pixels: "Tensor") -> "Tensor":
        return clip_states(pixels)[:, 0].float()

    def siglip_places(pixels: "Tensor") -> "Tensor":
        states = model.vision_model(pixel_values=pixels).last_hidden_state  # (B, N, V)
        B, N, V = states.shape
        return _grid(model.vision_model.head(states.reshape(B * N, 1, V)).reshape(B, N, -1))

    def siglip_pooled(pixels: "Tensor") -> "Tensor":
        return model.vision_model(pixel_values=pixels).pooler_output.float()  # type: ignore[no-any-return]

    places, pooled = {
        "clip": (clip_places, clip_pooled),
        "siglip": (siglip_places, siglip_pooled),
        "vit": (class_first_places, class_first_pooled),
        "dinov2": (class_first_places, class_first_pooled),
    }.get(weights.architecture, (map_places, map_pooled))
    return TransformersPictures(weights.width, places, pooled)


def _grid(states: "Tensor") -> "Tensor":
    """(B, H W, V) to (B, V, H, W), H = W."""
    B, N, V = states.shape
    side = round(N**0.5)
    return states.transpose(1, 2).reshape(B, V, side, side)


def _load(weights: Weights) -> Any:
    """The whole model of a folder, float32, on the CPU. Raises ValueError if the files lack some of its arrays."""
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = weights.file("config.json")
    assert config is not None, "a folder was found by its config.json"
    model, told = AutoModel.from_pretrained(
        str(config.parent),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=weights.files[0].suffix == ".safetensors",
        dtype=torch.float32,
        output_loading_info=True,
    )
    # transformers would go on with random numbers in their place.
    lacking = [name for name in told["missing_keys"] if not name.startswith(UNUSED)]
    if lacking or told["mismatched_keys"]:
        raise ValueError(f"it lacks {', '.join(lacking[:3])} or has another shape than its config.json says")
    return model.eval()
