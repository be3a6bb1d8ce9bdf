"""Convert a checkpoint to a bundle: what `overread models add` runs, with progress on stdout.

python -m inference.export --from DIR --card CARD.toml --out DIR [--precision int4] [--device cuda]
"""

import argparse
import logging
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from inference.bundle import BundleError
from inference.export.card import load_card
from inference.export.checkpoint import Checkpoint
from inference.export.convert import convert_checkpoint
from inference.export.graphs import ExportError
from inference.model_errors import ModelMemoryError


def main() -> None:
    """Convert; exit code 1 and the reason on stderr where that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--from", dest="checkpoint", type=Path, required=True)
    parser.add_argument("--card", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vision-tower", type=Path)
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16", "int8", "int4"), default="int4"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)  # torch's exporter tells of every node that it folds
    disable_progress_bar()
    try:
        bundle = convert_checkpoint(
            Checkpoint(arguments.checkpoint, arguments.vision_tower),
            load_card(arguments.card),
            arguments.out,
            precision=arguments.precision,
            device=arguments.device,
            tell=lambda text: print(text, flush=True),
        )
    except (ExportError, BundleError, ModelMemoryError) as error:
        sys.exit(str(error))
    except (
        OSError
    ) as error:  # a full disk, most likely: a bundle of fp32 is as large as its weights
        sys.exit(f"{error.filename or arguments.out.parent}: {error.strerror}. Nothing was added.")
    origin = bundle.manifest.origin
    print(f"parity with torch within {origin.parity_error:.2g}; digest {bundle.digest}")


if __name__ == "__main__":
    main()
