"""A text network is continued on a shop's words, by a tiny one with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from encoders.bert import Bert
from encoders.training.language import LanguageRule, Objective, continue_language
from encoders.training.loop import CannotTrain, Progress, Run
from encoders.training.towers import TextTower, padded
from streams.training.checkpoints import Checkpoint
from streams.training.sources import CannotWriteSource, write_text_source
from tests.tiny_bert import WIDTH, write_tiny_bert

COLOURS, KINDS = ("red", "green", "blue", "white"), ("lamp", "shoe", "dress", "cup", "chair", "scarf")
TEXTS = [f"a {colour} {kind}" for colour in COLOURS for kind in KINDS]
RULE = LanguageRule("contrastive", epochs=10, batch=12, learning_rate=1e-2)

Files = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_tiny_bert(tmp_path_factory.mktemp("bert"), ["a", *COLOURS, *KINDS])


@pytest.mark.parametrize("objective", ["masked", "contrastive"])
def test_the_loss_falls_and_every_array_keeps_its_name_and_shape(files: Files, objective: Objective) -> None:
    told: list[Progress] = []
    rule = RULE._replace(objective=objective, epochs=30 if objective == "masked" else 10)
    learned = continue_language(files, TEXTS, rule, Run(told=told.append))
    losses = [epoch["loss"] for epoch in told[-1].epochs]
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    before = load_file(files[0])
    assert {name: array.shape for name, array in learned.items()} == {
        name: array.shape for name, array in before.items()
    }
    assert not np.array_equal(
        learned["encoder.layer.0.attention.self.key.weight"], before["encoder.layer.0.attention.self.key.weight"]
    )


def test_only_the_last_layers_learn_where_that_is_asked_for(files: Files) -> None:
    learned, before = continue_language(files, TEXTS, RULE._replace(layers=1, epochs=1)), load_file(files[0])
    changed = {name for name, array in learned.items() if not np.array_equal(array, before[name])}
    assert changed
    assert all(name.startswith("encoder.layer.1.") for name in changed)
    for layers in (0, 3):
        with pytest.raises(CannotTrain, match="the text network has 2 layers: unfreeze 1 to all of them"):
            continue_language(files, TEXTS, RULE._replace(layers=layers))


def test_a_tower_that_has_learned_nothing_reads_as_the_network_does(files: Files) -> None:
    ids, mask = padded([[2, 5, 6, 3], [2, 7, 3]], torch.device("cpu"))
    assert mask.tolist() == [[True] * 4, [True, True, True, False]]
    tower = TextTower(files[0], files[1], drop=0.5).eval()
    states = Bert(files[0], files[1], device="cpu").states(ids, mask)
    assert torch.equal(tower.states(ids, mask), states)
    pooled = tower.pooled(ids, mask)
    assert pooled.shape == (2, WIDTH)
    assert torch.allclose(pooled[1], states[1, :3].mean(0), atol=1e-6)
    assert not torch.equal(tower.train().states(ids, mask), states)


def test_the_same_seed_gives_the_same_network_and_a_broken_run_goes_on_to_it(files: Files, tmp_path: Path) -> None:
    rule = RULE._replace(objective="masked", epochs=3)
    whole, same, other = (continue_language(files, TEXTS, rule, Run(seed)) for seed in (1, 1, 2))
    name = "encoder.layer.1.output.dense.weight"
    np.testing.assert_array_equal(whole[name], same[name])
    assert not np.array_equal(whole[name], other[name])

    def breaks(at: Progress) -> None:
        if at.step == 3:
            raise KeyboardInterrupt

    run = Run(1, kept=Checkpoint(tmp_path, {}), save_every_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        continue_language(files, TEXTS, rule, run._replace(told=breaks))
    again = continue_language(files, TEXTS, rule, run)
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array)


def test_texts_that_teach_nothing_are_left_out(files: Files) -> None:
    rule = RULE._replace(epochs=1)
    with pytest.raises(CannotTrain, match="7 different texts with words: give at least 8"):
        continue_language(files, [*TEXTS[:7], TEXTS[0], "", "  "], rule)
    continue_language(files, TEXTS[:8], rule)
    with pytest.raises(CannotTrain, match="without dropout a text is the same twice"):
        continue_language(files, TEXTS, rule._replace(dropout=0.0))


# --- in a folder -------------------------------------------------------------------------------------------------


def test_a_folder_is_the_network_and_is_replaced_as_a_whole(files: Files, tmp_path: Path) -> None:
    arrays = load_file(files[0])
    folder = tmp_path / "out" / "text"
    for factor in (1, 2):
        taught = {name: factor * array for name, array in arrays.items()}
        write_text_source(folder, taught, *files[1:])
        ids, mask = padded([[2, 5, 3]], torch.device("cpu"))
        states = Bert(folder / "model.safetensors", folder / "config.json", device="cpu").states(ids, mask)
        assert states.shape == (1, 3, WIDTH)
        assert (folder / "tokenizer.json").read_bytes() == files[2].read_bytes()
        assert [path.name for path in folder.parent.iterdir()] == ["text"]
    found = load_file(folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    np.testing.assert_array_equal(found[name], 2 * arrays[name])


def test_a_folder_of_something_else_is_left_alone(files: Files, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(CannotWriteSource, match="holds something else: name a new folder"):
        write_text_source(tmp_path, load_file(files[0]), *files[1:])
    assert (tmp_path / "letters.txt").read_text() == "dear"
