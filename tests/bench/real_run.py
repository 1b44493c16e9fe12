"""Run a real shop through a real Kafka and every role, as `freshet up` starts them, and print Markdown.

    python -m tests.bench.real_run online-retail FOLDER [--clicks N] [--products N] [--paced-s S]
    python -m tests.bench.real_run fashion FOLDER [--products N]

FOLDER is the data set's own, as `freshet import` takes it. Progress goes to stderr.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from brokers import KafkaMissing, LocalKafka

from tests.bench.fashion_run import run_fashion
from tests.bench.report import Progress, where
from tests.bench.retail_run import run_online_retail


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.real_run", description=__doc__.partition("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    retail, fashion = (kinds.add_parser(kind) for kind in ("online-retail", "fashion"))
    for kind in (retail, fashion):
        kind.add_argument("folder", type=Path)
        kind.add_argument("--products", type=int, help="only so many of the products (all)")
    retail.add_argument("--clicks", type=int, help="only so many of the purchases, from the first on (all)")
    retail.add_argument("--paced-s", type=float, default=30.0, help="of each phase at an even rate (30)")
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="freshet-kafka-") as folder:
        try:
            kafka = LocalKafka(Path(folder))
        except KafkaMissing as missing:
            sys.exit(f"{missing}. The run needs Apache Kafka, which Maven fetches once")
        arguments = [*sys.argv[1:2], chosen.folder.name, *sys.argv[3:]]
        print(where(" ".join(["python -m tests.bench.real_run", *arguments])), flush=True)
        kafka.start()
        try:
            with Progress(chosen.kind) as tell:
                if chosen.kind == "fashion":
                    told = run_fashion(kafka, chosen.folder, tell, products=chosen.products)
                else:
                    most = {"products": chosen.products, "clicks": chosen.clicks}
                    data = Path(folder) / "data"
                    told = run_online_retail(kafka, data, chosen.folder, tell, **most, paced_s=chosen.paced_s)
                text = asyncio.run(told)
        finally:
            kafka.kill()
    print(f"\n{text}")


if __name__ == "__main__":
    main()
