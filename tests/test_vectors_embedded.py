"""The embedded vector store: one owner, and nothing confirmed is lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from store.vectors import EmbeddedStoreMissing, OfferPoint, open_vectors
from store.vectors_embedded import EmbeddedVectors, StoreInUse

REPOSITORY = Path(__file__).parent.parent
UP = np.array([0, 1], np.float32)

WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
import store.vectors_embedded
from store.vectors import OfferPoint, VectorPoint, open_vectors
store.vectors_embedded.FLUSH_EVERY = int(sys.argv[2])
vectors = open_vectors(None, None, Path(sys.argv[1]), "")
vectors.ensure("ab12", {"fused": 2})
for number in range(100):
    vectors.put_offers([OfferPoint(f"p{number}", 1, {"state": "listable"})])
    vectors.put_vectors([VectorPoint(f"p{number}", 1, {"fused": np.array([1, number], np.float32)})])
vectors.remove([("p7", 2)])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("flush_every", [1_000_000, 50])
def test_confirmed_writes_survive_kill_9(tmp_path: Path, flush_every: int) -> None:
    writer = [sys.executable, "-c", WRITER, str(tmp_path), str(flush_every)]
    ended = subprocess.run(writer, cwd=REPOSITORY, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    store = open_vectors(None, None, tmp_path, "")
    try:
        assert store.count() == {"points": 99, "listable": 99, "fused": 99}
        assert store.fetch("p7") is None
        assert [hit.product_id for hit in store.nearest("fused", UP, 2)] == ["p99", "p98"]
    finally:
        store.close()


def test_a_second_process_is_refused_until_the_first_one_ends(tmp_path: Path) -> None:
    opener = """
import sys
from pathlib import Path
from store.vectors import open_vectors
open_vectors(None, None, Path(sys.argv[1]), sys.argv[2])
"""

    def open_elsewhere(namespace: str) -> str:
        second = [sys.executable, "-c", opener, str(tmp_path), namespace]
        return subprocess.run(second, cwd=REPOSITORY, timeout=60, check=False, capture_output=True, text=True).stderr

    store = open_vectors(None, None, tmp_path, "shop")
    try:
        assert f"StoreInUse: {tmp_path}/vectors belongs to process {os.getpid()}" in open_elsewhere("shop")
        assert open_elsewhere("other-shop") == ""
        with pytest.raises(StoreInUse, match="run index and api in that one"):
            open_vectors(None, None, tmp_path, "shop")
    finally:
        store.close()
    assert open_elsewhere("shop") == ""


def test_an_embedded_store_opens_again_as_it_was_closed(tmp_path: Path) -> None:
    for revision in (1, 2):
        store = EmbeddedVectors(tmp_path, "")
        store.ensure("ab12", {"fused": 2})
        store.put_offers([OfferPoint(name, revision, {"state": "listable"}) for name in ("p", f"p{revision}")])
        store.close()
    store = EmbeddedVectors(tmp_path, "")
    assert store.count()["points"] == 3
    store.close()


def test_a_collection_half_made_by_a_dying_process_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "products-ab12.new" / "shard").mkdir(parents=True)
    (tmp_path / "products-ab12.new" / "shard" / "half").write_text("")
    store = EmbeddedVectors(tmp_path, "")
    store.ensure("ab12", {"fused": 2})
    assert store.count()["points"] == 0
    store.close()


def test_without_its_package_the_store_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_edge", None)
    monkeypatch.delitem(sys.modules, "store.vectors_embedded")
    with pytest.raises(
        EmbeddedStoreMissing, match=r"pip install '\.\[embedded\]' in Freshet's folder, or name a server with "
    ):
        open_vectors(None, None, tmp_path, "")
