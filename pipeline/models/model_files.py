"""A fitted model as one file of the safetensors format: arrays and text, nothing that runs when it is read."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from pipeline.estimators.base import GradientModel
from pipeline.estimators.registry import ESTIMATORS
from pipeline.files.tensors import Kind, as_tensor, read_tensors, write_tensors
from pipeline.sections import unknown
from pipeline.training.history import digest
from tasks.typing import Array

MODEL: Final = Kind("dask-descent model", "model", version="1")
MODEL_FILE: Final = "model.safetensors"


def save_model(model: GradientModel, path: str | Path) -> None:
    """Write a fitted model to `path`, whole or not at all.

    Arrays: coef and intercept, or layers.0.weight, layers.0.bias ... of networks, and, for classifiers, classes (strings go into the
    metadata, for which safetensors has no dtype), in the shapes and dtypes of the fitted attributes. Metadata, all JSON but plain words:
    format, format_version, version of the library, estimator, parameters (of its constructor), feature_names, n_features, dtype, classes,
    parameters_sha256 (of the fit; of the parameters where nothing was fitted) and sha256, the digest of everything before it. A parameter
    that is no plain value, a strategy given as solver for instance, is left out with a warning.

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
        "estimator": type(model).__name__,
        "parameters": json.dumps(plain_parameters(model), allow_nan=False),
        "feature_names": json.dumps(None if names is None else list(map(str, names))),
        "n_features": str(model._n_features),
        "dtype": dtype,
        "classes": json.dumps(labels),
        "parameters_sha256": vars(model).get("parameters_sha256_") or digest(model._fitted(dtype)[1]),
    }
    write_tensors(Path(path), MODEL, arrays, metadata)


def load_model(path: str | Path, **given: Any) -> GradientModel:
    """The fitted estimator of a model file, or of a run's directory. Reading runs no code of the file's and unpickles nothing.

    given: parameters of the estimator in place of the file's, module=Net() say, whose code no file has. Raises FileNotFoundError when there
    is none, ValueError for a file that is damaged, of another make, or of a later format.
    """
    path = model_file(path)
    return rebuild(path, *read_tensors(path, MODEL), given)


def saved_digest(path: str | Path) -> str:
    """The digest of the parameters in a model file, or in that of a run's directory. Raises as `load_model`."""
    return read_tensors(model_file(path), MODEL)[1]["parameters_sha256"]


def model_file(path: str | Path) -> Path:
    """The model file itself, or that of a run's directory."""
    return Path(path) / MODEL_FILE if Path(path).is_dir() else Path(path)


def rebuild(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str], given: Mapping[str, Any]) -> GradientModel:
    """The estimator from what was read."""
    if metadata["estimator"] not in ESTIMATORS:
        raise unknown(metadata["estimator"], ESTIMATORS, f"{path}: estimator", "estimators")
    parameters = {name: from_plain(value) for name, value in json.loads(metadata["parameters"]).items()} | dict(given)
    try:
        model = ESTIMATORS[metadata["estimator"]](**parameters)
    except TypeError as error:
        raise ValueError(f"{path}: {error}; read it with the version that wrote it, {metadata['version']}") from error
    labels = json.loads(metadata["classes"])
    if isinstance(model, ClassifierMixin):
        model.classes_ = arrays["classes"] if labels is None else np.array(labels)
    if "n_features" in metadata:
        model.n_features_in_ = int(metadata["n_features"])
    model._set_arrays(arrays)
    names = json.loads(metadata["feature_names"])
    if names is not None:
        model.feature_names_in_ = np.array(names, dtype=object)
    model.parameters_sha256_ = metadata["parameters_sha256"]
    return model


def plain_parameters(model: GradientModel) -> dict[str, Any]:
    """The constructor's parameters as JSON values; those that have none are left out, with a warning."""
    plain = {}
    for name, value in model.get_params(deep=False).items():
        if name in model._unsaved:
            continue
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
