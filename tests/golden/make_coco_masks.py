"""Makes coco_masks.json: hashes of the masks that torchvision's reference code draws of the COCO subset.

    python tests/golden/make_coco_masks.py FILE DATA

FILE is the file named below, at that commit; DATA holds ``coco2017_subset``.
A hash is that of a mask's bytes, 0 .. 20 and 255, of each image that is left: in training those with enough to see.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from torchvision.datasets import CocoDetection

REPOSITORY, COMMIT = "pytorch/vision", "030d27a871ba66e03335e69c1b43d5bc56ec86b0"
FILE = "references/segmentation/coco_utils.py"
CATEGORIES = [0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72]
"""As in the file's ``get_coco``."""
OUT = Path(__file__).with_name("coco_masks.json")


def reference(file: Path) -> dict[str, Any]:
    """The names in the reference file."""
    sys.modules["transforms"] = SimpleNamespace(Compose=None)  # type: ignore[assignment]  # a file beside it
    names: dict[str, Any] = {}
    exec(compile(file.read_text(encoding="utf-8"), FILE, "exec"), names)
    return names


def main(file: Path, data: Path) -> None:
    """Write the hashes."""
    names, root = reference(file), data / "coco2017_subset"
    chosen, drawn = names["FilterAndRemapCocoCategories"](CATEGORIES), names["ConvertCocoPolysToMask"]()
    masks: dict[str, dict[str, str]] = {}
    for split in ("train2017", "val2017"):
        images = CocoDetection(str(root / split), str(root / "annotations" / f"instances_{split}.json"))
        left: Any = images
        if split == "train2017":
            left = names["_coco_remove_images_without_annotations"](images, CATEGORIES)
        rows = left.indices if left is not images else range(len(images))
        masks[split] = {}
        for row in rows:
            mask = np.asarray(drawn(*chosen(*images[row]))[1])
            name = Path(images.coco.loadImgs(images.ids[row])[0]["file_name"]).stem
            masks[split][name] = hashlib.sha256(mask.astype(np.uint8).tobytes()).hexdigest()[:16]
    content = {"repository": REPOSITORY, "commit": COMMIT, "file": FILE, "masks": masks}
    OUT.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
