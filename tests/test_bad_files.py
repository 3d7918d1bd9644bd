"""CSV files that are no tables of numbers: the error names the file, and a bad cell's column and row."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import Dataset, LogisticRegression
from pipeline.models.predictions import predict_files

pytestmark = pytest.mark.timeout(60)

ROWS = "1,2,0\n2,3,1\n" * 20
CASES: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "empty": ({"0": ""}, {}, r"0\.csv is empty; a CSV file starts with a line of column names"),
    "no rows": ({"0": "a,b,t\n"}, {}, r"0\.csv has column names but no rows, .*; leave it out, or give dtype="),
    "ragged": ({"0": "a,b,t\n1,2,0\n1,2,3,4\n"}, {}, r"reading .*0\.csv failed: .*Expected 3 fields in line 3, saw 4"),
    "ragged later": ({"0": f"a,b,t\n{ROWS * 2000}1,2,3,4\n"}, {}, r"0\.csv: .*Expected 3 fields in line 80002, saw 4"),
    "not UTF-8": ({"0": f"a,b,t\n{ROWS}", "1": "a,b,t\n1,\udcff,0\n"}, {}, r"1\.csv: .*utf-8"),
    "a word": ({"0": f"a,b,t\n{ROWS}1,x,0\n"}, {}, r"0\.csv: column 'b' holds 'x' in row 40 after the header, which is no number"),
    "a word at the top": ({"0": f"a,b,t\n1,x,0\n{ROWS}"}, {}, r"0\.csv: column 'b' has dtype .*, not numbers; encode it"),
    "a word in another file": ({"0": f"a,b,t\n{ROWS}", "1": "a,b,t\n1,2,0\n1,x,0\n"}, {}, r"1\.csv: column 'b' holds 'x' in row 1 after"),
    "a word in a later piece": (
        {"0": f"a,b,t\n{ROWS}1,x,0\n"},
        {"blocksize": 100},
        r"0\.csv: column 'b' holds 'x' in row \d+ from byte \d+ on, which is no number; mend it, or give na_values=",
    ),
    "a fraction": (
        {"0": f"a,b,t\n{ROWS}1,2.5,0\n"},
        {},
        r"column 'b' holds 2\.5 in row 40 .* give dtype={'b': 'float64'} or assume_missing",
    ),
    "a gap": ({"0": f"a,b,t\n{ROWS}1,,0\n"}, {}, r"0\.csv: column 'b' holds nan in row 40 .* whole numbers in the first rows"),
    "another column": (
        {"0": f"a,b,t\n{ROWS}", "1": "a,c,t\n1,2,0\n"},
        {},
        r"1\.csv lacks column 'b' of the first file; it has 'a', 'c', 't'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_file_is_named(tmp_path: Path, name: str) -> None:
    files, options, message = CASES[name]
    for file, text in files.items():
        (tmp_path / f"{file}.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        LogisticRegression().fit(Dataset.read_csv(tmp_path / "*.csv", target="t", **options))


def test_predictions_name_the_file_too(tmp_path: Path) -> None:
    X = np.array([[1.0, 2], [2, 3]])
    (tmp_path / "0.csv").write_text("a,b\n" + "1,2\n" * 20 + "1,x\n")
    with pytest.raises(ValueError, match=r"0\.csv: column 'b' holds 'x' in row 20 after the header"):
        predict_files(LogisticRegression().fit(X, [0, 1]), [str(tmp_path / "0.csv")], tmp_path / "out.csv")


def test_predictions_name_the_file_whose_first_rows_are_text(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("a,b\n1,x\n")
    with pytest.raises(ValueError, match=r"0\.csv: column 'b' has dtype .*, not numbers; encode it as it was for the fit"):
        predict_files(LogisticRegression().fit(np.eye(2), [0, 1]), [str(tmp_path / "0.csv")], tmp_path / "out.csv")


def test_files_without_rows_beside_others_are_fine(tmp_path: Path) -> None:
    for file, text in {"0": f"a,b,t\n{ROWS}", "1": "", "2": "a,b,t\n"}.items():
        (tmp_path / f"{file}.csv").write_text(text)
    assert Dataset.read_csv(tmp_path / "*.csv", target="t").schema.n_rows == 40


@pytest.mark.parametrize("columns", [None, ["b"], ["b", "a"]])
def test_pieces_and_columns(tmp_path: Path, columns: list[str] | None) -> None:
    (tmp_path / "0.csv").write_text(f"a,b,t\n{ROWS}")
    found = Dataset.read_csv(tmp_path / "0.csv", target="t", columns=columns, blocksize=50)
    rows = pd.read_csv(tmp_path / "0.csv")
    assert found.n_partitions > 3
    np.testing.assert_array_equal(found.X.compute(), rows[columns or ["a", "b"]])


def test_compressed_files_are_named(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "0.csv.gz", "wt") as file:
        file.write(f"a,b,t\n{ROWS}1,x,0\n")
    with pytest.raises(ValueError, match=r"0\.csv\.gz: column 'b' holds 'x' in row 40 after the header"):
        _ = Dataset.read_csv(tmp_path / "0.csv.gz", target="t").schema
