"""A BERT of two layers with random weights, in the files of a published one."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WIDTH, LAYERS = 16, 2
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_tiny_bert(folder: Path, words: list[str], seed: int = 0) -> tuple[Path, Path, Path]:
    """Parameters, configuration and tokenizer, which knows these words."""
    folder.mkdir(parents=True, exist_ok=True)
    known = [*SPECIAL, *dict.fromkeys(words)]
    config = {
        "model_type": "bert", "hidden_act": "gelu", "num_hidden_layers": LAYERS, "num_attention_heads": 2,
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "layer_norm_eps": 1e-12, "vocab_size": len(known),
        "max_position_embeddings": 128, "type_vocab_size": 2, "architectures": ["BertModel"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(_parameters(len(known), np.random.default_rng(seed)), folder / "model.safetensors")
    parameters, settings, its_tokenizer = "model.safetensors", "config.json", "tokenizer.json"
    return folder / parameters, folder / settings, folder / its_tokenizer


def _parameters(words: int, chance: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {
        "embeddings.word_embeddings": (words, WIDTH),
        "embeddings.position_embeddings": (128, WIDTH),
        "embeddings.token_type_embeddings": (2, WIDTH),
    }
    arrays = {f"{name}.weight": 0.3 * chance.normal(size=shape) for name, shape in shapes.items()}
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        sizes = {f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (2 * WIDTH, WIDTH)}
        for name, shape in (sizes | {"output.dense": (WIDTH, 2 * WIDTH)}).items():
            arrays[f"{at}{name}.weight"] = 0.3 * chance.normal(size=shape)
            arrays[f"{at}{name}.bias"] = np.zeros(shape[0])
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    for name in norms:
        arrays |= {f"{name}.weight": np.ones(WIDTH), f"{name}.bias": np.zeros(WIDTH)}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
