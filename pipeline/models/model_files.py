"""A fitted model as one file of the safetensors format: arrays and text, nothing that runs when it is read."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from pipeline.config import estimators
from pipeline.estimators.base import GradientModel
from pipeline.models.files import replace_file
from pipeline.sections import unknown
from tasks import __version__
from tasks.typing import Array

FORMAT: Final = "dask-descent model"
FORMAT_VERSION: Final = "1"
MODEL_FILE: Final = "model.safetensors"


def save_model(model: GradientModel, path: str | Path) -> None:
    """Write a fitted model to `path`, whole or not at all.

    Arrays: coef and intercept, or layers.0.weight, layers.0.bias ... of networks, and, for classifiers, classes (strings go into the
    metadata, for which safetensors has no dtype), in the shapes and dtypes of the fitted attributes. Metadata, all JSON but plain words:
    format, format_version, version of the library, estimator, parameters (of its constructor), feature_names, dtype, classes,
    parameters_sha256 (of the fit) and sha256, the digest of everything before it. A parameter that is no plain value, a strategy given as
    solver for instance, is left out with a warning.

    Raises NotFittedError for a model that is not fitted, ValueError for labels that are neither numbers, booleans nor strings.
    """
    check_is_fitted(model)
    arrays = {name: as_tensor(array) for name, array in model._arrays().items()}
    dtype = next(iter(arrays.values())).dtype.name
    labels: list[str] | None = None
    if isinstance(model, ClassifierMixin):
        classes = np.asarray(model.classes_)
        if classes.dtype.kind == "U":
            labels = classes.tolist()
        elif classes.dtype.kind in "biuf":
            arrays["classes"] = as_tensor(classes)
        else:
            raise ValueError(f"labels of dtype {classes.dtype} cannot be saved; fit on numbers, booleans or strings")
    names = vars(model).get("feature_names_in_")
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "estimator": type(model).__name__,
        "parameters": json.dumps(plain_parameters(model), allow_nan=False),
        "feature_names": json.dumps(None if names is None else list(map(str, names))),
        "dtype": dtype,
        "classes": json.dumps(labels),
        "parameters_sha256": model.parameters_sha256_,
    }
    metadata["sha256"] = content_digest(arrays, metadata)
    replace_file(Path(path), save(arrays, metadata))


def load_model(path: str | Path) -> GradientModel:
    """The fitted estimator of a model file, or of a run's directory. Reading runs no code of the file's and unpickles nothing.

    Raises FileNotFoundError when there is none, ValueError for a file that is damaged, of another make, or of a later format.
    """
    path = Path(path)
    path = path / MODEL_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no model {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: as_tensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file, but no model that dask-descent wrote")
    if metadata.get("format_version") != FORMAT_VERSION:
        found = metadata.get("format_version")
        raise ValueError(
            f"{path} has format version {found}, this dask-descent reads {FORMAT_VERSION}; read it with the version that wrote it"
        )
    if metadata.pop("sha256", None) != content_digest(arrays, metadata):
        raise ValueError(f"{path} is damaged: its content is not what its SHA-256 says; copy or train it again")
    return rebuild(path, arrays, metadata)


def rebuild(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> GradientModel:
    """The estimator from what was read."""
    if metadata["estimator"] not in estimators():
        raise unknown(metadata["estimator"], estimators(), f"{path}: estimator", "estimators")
    parameters = {name: from_plain(value) for name, value in json.loads(metadata["parameters"]).items()}
    try:
        model = estimators()[metadata["estimator"]](**parameters)
    except TypeError as error:
        raise ValueError(f"{path}: {error}; read it with the version that wrote it, {metadata['version']}") from error
    labels = json.loads(metadata["classes"])
    if isinstance(model, ClassifierMixin):
        model.classes_ = arrays["classes"] if labels is None else np.array(labels)
    model._set_arrays(arrays)
    names = json.loads(metadata["feature_names"])
    if names is not None:
        model.feature_names_in_ = np.array(names, dtype=object)
    model.parameters_sha256_ = metadata["parameters_sha256"]
    return model


def as_tensor(values: Any) -> Array:
    """A C-ordered little-endian copy: safetensors writes the memory of any other array as if it were one."""
    array = np.array(values, order="C")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def content_digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the arrays, and the metadata."""
    sha256 = hashlib.sha256()
    for name in sorted(arrays):
        sha256.update(json.dumps([name, arrays[name].dtype.str, arrays[name].shape]).encode())
        sha256.update(arrays[name].tobytes())
    sha256.update(json.dumps(metadata, sort_keys=True).encode())
    return sha256.hexdigest()


def plain_parameters(model: GradientModel) -> dict[str, Any]:
    """The constructor's parameters as JSON values; those that have none are left out, with a warning."""
    plain = {}
    for name, value in model.get_params(deep=False).items():
        try:
            plain[name] = to_plain(value)
        except TypeError:
            warnings.warn(f"{name}={value!r} cannot be saved with the model, which will be read back with the default", stacklevel=3)
    return plain


def to_plain(value: Any) -> Any:
    """JSON for None, booleans, numbers, strings, lists, arrays and mappings of them, what JSON lacks being tagged.

    Raises TypeError for anything else.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, Mapping):  # keys may be numbers
        return {"mapping": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{value!r} is no plain value")


def from_plain(value: Any) -> Any:
    """The inverse of `to_plain`, arrays and tuples becoming lists."""
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    return {from_plain(key): from_plain(item) for key, item in value["mapping"]}
