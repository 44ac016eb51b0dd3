"""Reading a file of annotations as large as COCO's ``instances_train2017.json``: seconds of the processor, and memory.

::

    python tests/bench/bench_annotations.py [FOLDER]

The file, 860,000 annotations of 118,287 images with polygons and run lengths, is made in FOLDER (by default a temporary
one) where it is not there yet. Each reader runs in a process of its own: ``json.loads`` alone, and our reader
without and with the shapes. Memory is the most that the process had, less what it had before it read.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES, ANNOTATIONS, CROWDS = 118_287, 860_000, 10_000
READ = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from kd_vision.detection.data import annotations
from kd_vision.detection.data.categories import COCO
annotations.missing_from = lambda folder, files: np.zeros(len(files), bool)  # there are no images
path, how = Path(sys.argv[1]), sys.argv[2]
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
if how == "json":
    content = json.loads(path.read_bytes())
else:
    file = annotations.read_file(path, masks=how == "masks", keypoints=False)
    boxes = annotations.boxes_of(file, path.parent, COCO, lenient=True)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{how:<6} {time.process_time() - start:5.1f} s {(peak - before) / 1e6:5.2f} GB")
"""


def write(path: Path) -> None:
    """A file like COCO's, of random boxes and polygons."""
    from kd_vision.detection.data.categories import COCO_BY_ID

    rng = random.Random(0)
    site = "http://images.cocodataset.org/train2017/"
    images = [
        {"id": number, "file_name": f"{number:012}.jpg", "width": 640, "height": 480, "coco_url": site}
        for number in range(1, IMAGES + 1)
    ]
    categories = [{"id": number, "name": name} for number, name in COCO_BY_ID.items()]
    with path.open("w") as file:
        file.write(f'{{"images": {json.dumps(images)}, "annotations": [')
        for number in range(ANNOTATIONS):
            file.write((", " if number else "") + json.dumps(annotation(rng, number, list(COCO_BY_ID))))
        file.write(f'], "categories": {json.dumps(categories)}}}')


def annotation(rng: random.Random, number: int, categories: list[int]) -> dict[str, object]:
    """One object; every 86th is a crowd of run lengths."""
    box = [round(rng.uniform(low, high), 2) for low, high in ((0, 300), (0, 200), (2, 300), (2, 200))]
    crowd = number % (ANNOTATIONS // CROWDS) == 0
    points = [round(rng.uniform(0, 480), 2) for _ in range(rng.choice((10, 20, 40, 60, 90)))]
    return {
        "segmentation": {"size": [480, 640], "counts": [600] * 512} if crowd else [points],
        "area": box[2] * box[3],
        "iscrowd": int(crowd),
        "image_id": rng.randint(1, IMAGES),
        "bbox": box,
        "category_id": rng.choice(categories),
        "id": number + 1,
    }


def main() -> None:
    """Make the file and read it in each way."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    path = folder / "instances.json"
    if not path.is_file():
        write(path)
    print(f"{path.stat().st_size / 1e6:.0f} MB, {ANNOTATIONS:,} annotations")
    for how in ("json", "boxes", "masks"):
        subprocess.run([sys.executable, "-c", READ, str(path), how], check=True)


if __name__ == "__main__":
    main()
