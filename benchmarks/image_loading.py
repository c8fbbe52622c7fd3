"""Whether loading keeps up with a model: images per second of each, on generated images.

    OMP_NUM_THREADS=2 python benchmarks/image_loading.py --output results/image-loading.json

Measured for a folder of JPEG files, and, at 32 × 32, for CIFAR-10's batches in memory:

* `decoding`: files to the cache, once in the life of a folder;
* `taking`: batches in random order, in floats, from memory or the mapped cache;
* `training`: the same with the augmentation that is usual for such images;
* `model`: what a teacher's own updates can take, which are a forward solve and a backward one, the
  optimiser left out. `headroom` is `training` over this: above 1, images wait for the model.

The model is a small convolutional DEQ; `--recipe NAME` takes a recipe's teacher and its loss, for
images of `--size`. Half a minute on one core.
"""

import argparse
import json
import pickle
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from machine import machine
from PIL import Image
from torch.nn import functional as F

from cdeq.atomic import write_atomic
from cdeq.data.augment import Augmentation
from cdeq.data.byte_images import ByteImageSet
from cdeq.data.cifar import META, TEST, TRAIN, read_cifar10
from cdeq.data.framing import Framing
from cdeq.data.image_cache import Decoding
from cdeq.data.image_folder import read_image_folder
from cdeq.data.indexed import step_indices
from cdeq.models.base import EquilibriumModel
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
from cdeq.models.vision.mdeq import MDEQ
from cdeq.recipes.image_sets import IMAGES
from cdeq.training.teacher import TeacherLoss

CLASSES = 10
CIFAR = Augmentation(padding=4, flip=0.5)
IMAGENET = Augmentation(scale=(0.08, 1.0), flip=0.5)
TEACHERS = {recipe.__name__: recipe for recipe in IMAGES}

Numbers = dict[str, Any]


def pictures(count: int, size: int, seed: int) -> np.ndarray:
    """Smooth colours, which compress as photographs do: count × size × size × 3 bytes."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    fine = F.interpolate(coarse, size, mode="bicubic").clamp(0.0, 1.0)
    return (255 * fine).byte().permute(0, 2, 3, 1).contiguous().numpy()


def write_folder(folder: Path, count: int, size: int) -> None:
    """JPEG files in a folder a class, a quarter larger than what is cut out of them."""
    for name in range(CLASSES):
        inside = folder / str(name)
        inside.mkdir(parents=True)
        for number, image in enumerate(pictures(count // CLASSES, size * 5 // 4, name)):
            Image.fromarray(image).save(inside / f"{number}.jpg", quality=90)


def write_cifar(folder: Path, count: int) -> None:
    """Batches in the official layout."""
    for seed, name in enumerate((*TRAIN, TEST)):
        data = pictures(count // 5, 32, seed).transpose(0, 3, 1, 2).reshape(-1, 3072)
        labels = [number % CLASSES for number in range(len(data))]
        content = pickle.dumps({b"data": data.copy(), b"labels": labels}, 4)
        (folder / name).write_bytes(content)
    names = [str(name).encode() for name in range(CLASSES)]
    (folder / META).write_bytes(pickle.dumps({b"label_names": names}))


def rate(images: Callable[[int], int], least: float) -> float:
    """Images a second over at least so many seconds, after one call that is not timed.

    Arguments:
        images: Handles the images of one step, and says how many they were.
        least: Seconds.
    """
    images(0)
    start, count, step = time.perf_counter(), 0, 0
    while (passed := time.perf_counter() - start) < least or step == 0:
        step += 1
        count += images(step)
    return count / passed


def loading(
    data: ByteImageSet, augment: Augmentation | None, batch_size: int
) -> Callable[[int], int]:
    """One training batch a step."""

    def images(step: int) -> int:
        batch = data.take(step_indices(step, samples=len(data), batch_size=batch_size, seed=0))
        if augment is not None:
            batch = augment(batch, torch.Generator().manual_seed(step))
        return len(batch.label)

    return images


def updating(
    model: EquilibriumModel, loss: TeacherLoss, size: int, batch_size: int, *, narrow: bool
) -> Callable[[int], int]:
    """One gradient a step, always of the same images, with products in bfloat16 or not."""
    image = torch.rand(batch_size, 3, size, size)
    batch = ImageBatch(image, torch.arange(batch_size) % CLASSES)

    def images(step: int) -> int:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            terms = loss(model, batch, torch.Generator().manual_seed(step)).terms
        terms["loss"].backward()
        return batch_size

    return images


def measured_folder(folder: Path, size: int, threads: int) -> tuple[ByteImageSet, Numbers]:
    """Its images, and what the first and the second start took."""
    framing = Framing(size=size, resize=size)
    starts = []
    for _ in range(2):
        start = time.perf_counter()
        images, _ = read_image_folder(folder, Decoding(framing=framing, threads=threads))
        starts.append(time.perf_counter() - start)
    first, second = starts
    return images, {"decoding": len(images) / first, "second_start_seconds": second}


def measure(
    model: EquilibriumModel,
    loss: TeacherLoss,
    *,
    size: int,
    count: int,
    batch_sizes: Sequence[int],
    least: float,
    say: Callable[[str], object],
    narrow: bool = False,
) -> Numbers:
    """The contents of the result file, but for what ran where.

    Arguments:
        model: The model to compare with.
        loss: Its training loss.
        size: The side of the model's and of the folder's images.
        count: How many images there are in each set.
        batch_sizes: Images a step.
        least: Seconds that each rate is measured for, at least.
        say: Told what was found.
        narrow: Whether the model trains with products in bfloat16.
    """
    rows, threads = [], torch.get_num_threads()
    with TemporaryDirectory() as name:
        root = Path(name)
        write_folder(root / "folder", count, size)
        write_cifar(root, count)
        folder, facts = measured_folder(root / "folder", size, threads)
        cifar = read_cifar10(root, validation=CLASSES, held_out=CLASSES).train
        sets = (("cifar", cifar, CIFAR, {}), ("folder", folder, IMAGENET, facts))
        for batch_size in batch_sizes:
            own = rate(updating(model, loss, size, batch_size, narrow=narrow), least)
            for kind, data, augment, other in sets:
                if data.image.shape[-1] != size:
                    continue  # the model's rate is for images of another size
                taking, training = (
                    rate(loading(data, change, batch_size), least) for change in (None, augment)
                )
                images = {"images": kind, "size": data.image.shape[-1]}
                rates = {"taking": taking, "training": training, "model": own}
                row = {**images, "batch_size": batch_size, **rates, **other}
                rows.append(rounded({**row, "headroom": training / own}))
                say(str(rows[-1]))
    kind = f"{type(model).__name__}{' in bfloat16' if narrow else ''}"
    return {"images_per_second": rows, "model": kind, "decoders": threads}


def rounded(numbers: Numbers) -> Numbers:
    """With three digits, which is more than a repetition would confirm."""
    return {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in numbers.items()}


def main() -> None:
    """Measure, tell, write."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--output", type=Path, required=True, help="the result file, JSON")
    options.add_argument("--recipe", choices=[*TEACHERS], help="whose teacher to time")
    options.add_argument("--size", type=int, default=32, help="the side of its images")
    options.add_argument("--count", type=int, default=2000, help="images in each set")
    options.add_argument("--batch-size", type=int, nargs="+", default=[128])
    options.add_argument("--seconds", type=float, default=3.0, help="that each rate takes")
    given = options.parse_args()
    if given.recipe:
        recipe = TEACHERS[given.recipe]()
        model, loss = MDEQ(replace(recipe.network, classes=CLASSES)), recipe.teacher.loss
        narrow = recipe.hardware.precision == "bf16-mixed"
    else:
        spec = ContractionSpec(image_channels=3, size=given.size, classes=CLASSES)
        model, loss, narrow = ContractionDEQ(spec), TeacherLoss(), False
    measured = measure(
        model,
        loss,
        size=given.size,
        count=given.count,
        batch_sizes=given.batch_size,
        least=given.seconds,
        say=print,
        narrow=narrow,
    )
    contents = measured | machine("numpy", "pillow")
    contents["command"] = "python benchmarks/image_loading.py " + shlex.join(sys.argv[1:])
    write_atomic(given.output, (json.dumps(contents, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
