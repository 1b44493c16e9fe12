"""Run the benchmarks, each on the same real Kafka, and print Markdown.

    python -m tests.bench [NAME ...] [--quick]

Progress goes to stderr. Nothing else should run on the machine; --quick only shows that they work.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from brokers import KafkaMissing, LocalKafka

from streams.evaluation.report import row, table
from tests.bench import clicks, encoders, lists, products, retraction, serving, word_index
from tests.bench.report import FIGURE_COLUMNS, Figure, Progress, where
from tests.bench.stage import FULL, QUICK

BENCHES = {
    "list_cost": lists.list_cost,
    "click_to_list": clicks.click_to_list,
    "durable_clicks": clicks.durable_clicks,
    "encode": products.encode,
    "encoders": encoders.encoders,
    "retrievable": products.retrievable,
    "sold_out": products.sold_out,
    "retraction": retraction.retraction,
    "restart": clicks.restart,
    "serving": serving.serving,
    "word_index": word_index.word_index,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (all): {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="sizes that say nothing about speed")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - BENCHES.keys():
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(BENCHES)}")
    with TemporaryDirectory(prefix="freshet-kafka-") as folder:
        try:
            kafka = LocalKafka(Path(folder))
        except KafkaMissing as missing:
            sys.exit(f"{missing}. The benchmarks run on Apache Kafka, which Maven fetches once")
        print(where(" ".join(["python -m tests.bench", *sys.argv[1:]])) + "\n")
        print(table(FIGURE_COLUMNS, []), flush=True)
        kafka.start()
        try:
            for name in chosen.names or BENCHES:
                for figure in _run(name, kafka, quick=chosen.quick):
                    print(row(figure.cells()), flush=True)
        finally:
            kafka.kill()


def _run(name: str, kafka: LocalKafka, *, quick: bool) -> list[Figure]:
    with Progress(name) as tell:
        return asyncio.run(BENCHES[name](kafka, QUICK if quick else FULL, tell))


if __name__ == "__main__":
    main()
