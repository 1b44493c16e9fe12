"""Folders of tiny random weights, as transformers and torchvision would write them, and tokenizers to go with them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "lamp", "dress", "very", "long", "of", "brass", "##s"]
CORPUS = ["red lamps of brass", "a very long blue dress", "number 1 2 3 4 5 6 7 8 9 0"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PICTURES = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5], "resample": 3}
POSITIONS = 40

ENCODERS = {
    "albert": ("AlbertConfig", {"embedding_size": 16}),
    "bert": ("BertConfig", {}),
    "camembert": ("CamembertConfig", {}),
    "deberta-v2": ("DebertaV2Config", {}),
    "distilbert": ("DistilBertConfig", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}),
    "electra": ("ElectraConfig", {"embedding_size": 16}),
    "modernbert": ("ModernBertConfig", {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}),
    "mpnet": ("MPNetConfig", {}),
    "roberta": ("RobertaConfig", {}),
    "xlm-roberta": ("XLMRobertaConfig", {}),
}
DECODERS = {
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}),
    "gpt_neo": ("GPTNeoConfig", {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "llama": ("LlamaConfig", {"num_key_value_heads": 1}),
    "mistral": ("MistralConfig", {"num_key_value_heads": 1}),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3Config", {"num_key_value_heads": 1, "head_dim": 16}),
}


def write_text_model(folder: Path, kind: str, *, seed: int = 0, **more: Any) -> Path:
    """A BERT-like or GPT-like one of width 32, with a tokenizer."""
    name, own = (ENCODERS | DECODERS)[kind]
    # No padding of the configuration's own: tiny vocabularies lack the usual numbers.
    common = {"vocab_size": 300, "max_position_embeddings": POSITIONS, "bos_token_id": 2, "eos_token_id": 3}
    return _save(folder, name, SMALL | common | own | more, seed, byte_level() if kind in DECODERS else word_pieces())


def write_two_towers(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """A CLIP or SigLIP with pictures of 16 px in patches of 4 px."""
    text = SMALL | {"vocab_size": 300, "max_position_embeddings": 20, "bos_token_id": 1, "eos_token_id": 3}
    vision = SMALL | {"image_size": 16, "patch_size": 4}
    if kind == "clip":
        more = {"projection_dim": 24, "text_config": text, "vision_config": vision}
        path = _save(folder, "CLIPConfig", more, seed, byte_level(begin=1, end=3))
    else:
        text |= {"pad_token_id": 0, "projection_size": 32}
        path = _save(folder, "SiglipConfig", {"text_config": text, "vision_config": vision}, seed, byte_level(end=3))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}}))
    write_preparation(folder)
    return path


def write_picture_model(folder: Path, kind: str, *, seed: int = 0) -> Path:
    name, own = {
        "vit": ("ViTConfig", SMALL | {"image_size": 16, "patch_size": 4}),
        "dinov2": ("Dinov2Config", SMALL | {"image_size": 16, "patch_size": 4}),
        "resnet": ("ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 32], "depths": [1, 1]}),
        "efficientnet": ("EfficientNetConfig", {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128}),
    }[kind]
    write_preparation(folder, crop_size=64 if kind == "efficientnet" else 16)
    return _save(folder, name, own, seed, None)


def write_preparation(folder: Path, **changes: Any) -> None:
    """preprocessor_config.json, 16 px."""
    folder.mkdir(parents=True, exist_ok=True)
    told = PICTURES | {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}} | changes
    (folder / "preprocessor_config.json").write_text(json.dumps(told))


def write_torchvision(folder: Path, name: str, *, seed: int = 0) -> Path:
    """The network of torchvision's name, in full size."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(torchvision_network(name, seed).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": f"torchvision:{name}"}))
    return folder


def torchvision_network(name: str, seed: int = 0) -> torch.nn.Module:
    import torchvision

    torch.manual_seed(seed)
    more = {"init_weights": False} if name == "inception_v3" else {}
    return torchvision.models.get_model(name, weights=None, **more).eval()


def word_pieces() -> Tokenizer:
    """WordPiece, [CLS] before and [SEP] after."""
    characters = [letter for word in "abcdefghijklmnopqrstuvwxyz0123456789" for letter in (word, f"##{word}")]
    vocabulary = {word: number for number, word in enumerate([*WORDS, *characters])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def byte_level(*, begin: int | None = None, end: int | None = None) -> Tokenizer:
    """Byte-level BPE, with marks at the ends where they are asked for."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<pad>", "<s>", "<unk>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    marks = [(name, number) for name, number in (("<s>", begin), ("</s>", end)) if number is not None]
    if marks:
        single = " ".join([*(["<s>"] if begin is not None else []), "$A", *(["</s>"] if end is not None else [])])
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=marks)
    return tokenizer


def _save(folder: Path, config: str, settings: dict[str, Any], seed: int, tokenizer: Tokenizer | None) -> Path:
    """Random, but larger than what training starts from: rows of one network's output must differ."""
    torch.manual_seed(seed)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel.from_config(getattr(transformers, config)(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # what norms add would drown what differs
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(1.0)
        if config in ("ResNetConfig", "EfficientNetConfig"):
            model.train()(pixel_values=torch.randn(8, 3, 64, 64))  # else many batch norms make nothing of a picture
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    return folder
