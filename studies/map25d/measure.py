"""Recall of trained models of maps on the panoramas of unseen districts, one row for each model.

    for recipe in map25d-tile-small map25d-cloud-small studies/map25d/*.yaml; do
        geoloc train --recipe $recipe --train TABLES/trainstreetlearnU --output MODELS/$(basename $recipe .yaml)
    done
    python studies/map25d/measure.py --tables TABLES/unionsquare5kU TABLES/wallstreet5kU --models MODELS/*

The text and the table are in docs/map25d.md. Every panorama is compared with all tiles of its district, by floats; a
tile that is exactly as similar as the right one counts as half before it.
"""

from __future__ import annotations

import argparse
import sys

from geoloc.training.validation import validation_recall

RANKS = (1, 5, 10)


def main() -> None:
    """Write a table in Markdown to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="model directories")
    parser.add_argument(
        "--tables", nargs="+", required=True, help="outputs of geoloc ingest, one for each district"
    )
    given = parser.parse_args()
    names = [uri.rstrip("/").rpartition("/")[2] for uri in given.tables]
    sys.stdout.write(f"| model | {' | '.join(f'{name}: R@1 / 5 / 10' for name in names)} | photos |\n")
    sys.stdout.write("|---" * (len(names) + 2) + "|\n")
    for model in given.models:
        found = [validation_recall(model, table) for table in given.tables]
        cells = [" / ".join(f"{row[f'validation_recall_{k}']:.1f}" for k in RANKS) for row in found]
        photos = sum(int(row["validation_pairs"]) for row in found)
        name = model.rstrip("/").rpartition("/")[2]
        sys.stdout.write(f"| {name} | {' | '.join(cells)} | {photos:,} |\n")


if __name__ == "__main__":
    main()
