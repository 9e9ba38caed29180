"""Choose files by their names alone: the quantisation, all parts of a split model, the projector of a vision model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PREFERENCE = (
    "Q4_K_M", "Q4_K_XL", "Q4_K_L", "Q4_K_S", "Q4_0", "MXFP4", "IQ4_XS", "IQ4_NL", "Q5_K_M", "Q5_K_XL", "Q5_K_S", "Q6_K",
    "Q6_K_XL", "Q8_0", "Q8_K_XL", "Q4_1", "Q5_0", "Q5_1", "NVFP4", "Q3_K_M", "Q3_K_L", "Q3_K_XL", "Q3_K_S", "IQ3_M",
    "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_L", "Q2_K_XL", "BF16", "F16", "F32",
)  # fmt: skip
"""What is taken if the name says no quantisation: four bits first, then more, then fewer, then none at all."""

_LABEL = re.compile(
    r"(?:^|[-._/])((?:I?Q[1-8](?:_[0-9A-Z]+)*|TQ[12]_0|BF16|FP?16|FP?32|MXFP4|NVFP4)(?:_MOE)?)(?=[-./]|$)",
    re.IGNORECASE,
)
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_COMPANIONS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
"""In the names of files that lie beside a model and are none, as llama.cpp's ``download.cpp`` has them."""
_MAX_PARTS = 1000


def is_model(file: str) -> bool:
    """Return whether the file is a model, and not something that lies beside one."""
    name = file.rpartition("/")[2].lower()
    return name.endswith(".gguf") and not any(mark in name for mark in _COMPANIONS)


def strip_suffixes(file: str) -> str:
    """Return a model's file name without ``.gguf`` and which part of it the file is."""
    return re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", file, flags=re.IGNORECASE)


def parse_quantisation(file: str) -> str | None:
    """Return the quantisation that the file's name ends with, in capitals, or None if it names none."""
    labels = _LABEL.findall(strip_suffixes(file))
    return labels[-1].upper().replace("FP", "F").replace("MXF4", "MXFP4").replace("NVF4", "NVFP4") if labels else None


def list_parts(file: str) -> tuple[str, ...]:
    """Return the names of all parts of the model that ``file`` is a part of, the first one first."""
    match = _PART.fullmatch(file)
    if not match or not 0 < int(match[3]) <= _MAX_PARTS:
        return (file,)
    suffix = file[-5:]
    return tuple(f"{match[1]}-{part:05}-of-{match[3]}{suffix}" for part in range(1, int(match[3]) + 1))


def choose_file(files: Iterable[str], quantisation: str | None = None) -> str | None:
    """Return the model among ``files``, or its first part, or None if there is none.

    Of the ``quantisation`` that is asked for, whatever its capitals; else of the first in ``PREFERENCE`` that is there.
    Among several, the one that is not in a folder, then the shortest name.
    """
    models = sorted({list_parts(file)[0] for file in files if is_model(file)}, key=_rank)
    if quantisation:
        return _find_quantisation(models, quantisation.upper())
    labels = [parse_quantisation(model) for model in models]
    wanted = next((label for label in PREFERENCE if label in labels), None)
    return models[labels.index(wanted)] if models else None


def _rank(file: str) -> tuple[int, int, str]:
    return file.count("/"), len(file), file


def _find_quantisation(models: Sequence[str], wanted: str) -> str | None:
    bare = wanted.removeprefix("UD-")
    exact = [model for model in models if parse_quantisation(model) == bare]
    dynamic = [model for model in exact if "UD-" in model.upper()]
    plain = [model for model in exact if model not in dynamic]
    return next(iter(dynamic if bare != wanted else plain + dynamic), None)


def choose_projector(files: Iterable[str], model: str) -> str | None:
    """Return the projector (``mmproj``) that goes with the ``model``, or None.

    It lies in the model's folder or above it. Among several: in the nearest folder, then the one that shares most of
    its name with the model, then the one of the most common kind, F16.
    """
    folder = model.rpartition("/")[0]
    found = [file for file in files if "mmproj" in file.lower() and file.lower().endswith(".gguf")]
    near = [file for file in found if _is_above(file.rpartition("/")[0], folder)]
    return min(near, key=lambda file: _rank_projector(file, model), default=None)


def _is_above(folder: str, below: str) -> bool:
    return not folder or below == folder or below.startswith(folder + "/")


def _rank_projector(file: str, model: str) -> tuple[int, int, int, str]:
    kinds = ("F16", "BF16", "Q8_0", "F32")
    kind = parse_quantisation(file)
    return -file.count("/"), -_count_shared(file, model), kinds.index(kind) if kind in kinds else len(kinds), file


def _count_shared(file: str, model: str) -> int:
    """Return how many words of their names the two share, the quantisation apart."""
    words = [set(re.split(r"[-._/]", _LABEL.sub("", name.rpartition("/")[2].lower()))) for name in (file, model)]
    return len(words[0] & words[1])
