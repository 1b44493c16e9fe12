"""The vectors of a catalogue file: those that an encode role would publish, however often it is begun."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.weights import UnknownSource
from streams.evaluation import kept_arrays
from streams.evaluation.vectors import encode_to
from streams.settings import Settings

PRODUCTS: dict[str, dict[str, Any]] = {
    f"p{n}": {"op": "upsert", "product_id": f"p{n}", "title": f"{colour} shoes {n}"}
    for n, colour in enumerate(("red", "blue", "green", "white", "black"))
}


def settings(**changes: Any) -> Settings:
    return Settings(encode_batch=2, pictures_root=None, **changes)


def read(path: Path) -> tuple[list[str], np.ndarray[Any, Any]]:
    with np.load(path) as arrays:
        return arrays["product_ids"].tolist(), arrays["fused"]


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_arrays, "SAVE_EVERY_S", 0.0)
    encode_to(tmp_path / "whole.npz", PRODUCTS, settings())
    told: list[int] = []

    def until_four(done: int, total: int) -> None:
        assert total == 5
        told.append(done)
        if told == [0, 2, 4]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_to(tmp_path / "parts.npz", PRODUCTS, settings(), until_four)
    encode_to(tmp_path / "parts.npz", PRODUCTS, settings(), until_four)
    assert told == [0, 2, 4, 2, 4, 5]  # the batch that was not saved is encoded again
    ids, fused = read(tmp_path / "parts.npz")
    whole_ids, whole = read(tmp_path / "whole.npz")
    assert ids == whole_ids == [f"p{n}" for n in range(5)]
    np.testing.assert_array_equal(fused, whole)
    assert np.linalg.norm(fused, axis=1) == pytest.approx(1, abs=1e-3)


def test_vectors_of_other_products_or_a_broken_file_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    for broken in (None, b"", b"PK\x03\x04 and no more"):
        if broken is not None:
            path.write_bytes(broken)
        encode_to(path, PRODUCTS, settings())
        assert len(read(path)[0]) == 5
    other = PRODUCTS | {"p0": PRODUCTS["p0"] | {"title": "a lamp"}}
    before = read(path)[1]
    encode_to(path, other, settings())
    assert (read(path)[1] == before).all(axis=1).tolist() == [False, True, True, True, True]


def test_weights_that_cannot_be_had_are_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownSource, match="nowhere"):
        encode_to(tmp_path / "vectors.npz", PRODUCTS, settings(text_encoder="package:nowhere"))
