"""A folder of results is whole, or it is not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedpriv.errors import ConfigurationError
from fedpriv.report import saving
from fedpriv.report.figures import trade_off
from fedpriv.report.saving import MARK, provenance, save

TABLE = pd.DataFrame({"label": ["a", "b"], "epsilon": [np.inf, 1.0], "accuracy": [0.5, 0.6]})
TABLE = TABLE.assign(federation="f", aggregation="PlainSum")


def contents(**parts: Any) -> dict[str, Any]:
    return {
        "tables": {"runs": TABLE},
        "documents": {"study": {"epsilon": np.inf, "loss": np.nan, "n": np.int64(3), "deep": [(-np.inf, None)]}},
        "figures": {"study": trade_off(TABLE, "epsilon", "accuracy")},
        "texts": {"table.tex": "ε\n"},
    } | parts


def strict(path: Path) -> Any:
    """JSON, and nothing that only Python's reader takes."""

    def refuse(token: str) -> None:
        raise AssertionError(token)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


class Interrupted:
    """A figure during whose drawing something happens."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def savefig(self, *_: Any, **__: Any) -> None:
        raise self.error


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestWhole:
    def test_every_file_is_there_and_can_be_read(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "deep" / "results", **contents())
        assert {path.name for path in folder.iterdir()} == {
            "runs.csv", "study.json", "study.png", "study.pdf", "table.tex", MARK,
        }  # fmt: skip
        pd.testing.assert_frame_equal(pd.read_csv(folder / "runs.csv"), TABLE)
        assert (folder / "study.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert (folder / "study.pdf").read_bytes()[:5] == b"%PDF-"
        assert (folder / "table.tex").read_text(encoding="utf-8") == "ε\n"
        assert strict(folder / MARK)["files"] == sorted(
            ["runs.csv", "study.json", "study.png", "study.pdf", "table.tex"]
        )
        assert os.stat(folder).st_mode & 0o777 == 0o755

    def test_json_has_no_token_that_json_lacks(self, tmp_path: Path) -> None:
        document = strict(save(tmp_path / "results", **contents()) / "study.json")
        assert document == {"epsilon": "∞", "loss": "NaN", "n": 3, "deep": [["-∞", None]]}

    def test_versions(self) -> None:
        about = provenance()
        assert about["fedpriv"]
        assert about["packages"]["numpy"] == np.__version__

    def test_a_folder_of_results_is_replaced(self, tmp_path: Path) -> None:
        save(tmp_path / "results", **contents(texts={"old.tex": "old"}))
        folder = save(tmp_path / "results", **contents())
        assert not (folder / "old.tex").exists()
        assert (folder / "table.tex").is_file()
        assert [path.name for path in tmp_path.iterdir()] == ["results"]

    def test_an_empty_folder_is_used(self, tmp_path: Path) -> None:
        (tmp_path / "results").mkdir()
        assert (save(tmp_path / "results", **contents()) / MARK).is_file()


class TestRefused:
    def test_a_folder_of_somebody_else(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(ConfigurationError, match="another folder"):
            save(tmp_path, **contents())
        assert snapshot(tmp_path) == {"mine.txt": b"mine"}

    @pytest.mark.parametrize("extra", ["notes.md", "figures/mine.png"])
    def test_results_among_which_a_user_has_put_a_file(self, extra: str, tmp_path: Path) -> None:
        folder = save(tmp_path / "results", **contents())
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_text("mine")
        with pytest.raises(ConfigurationError, match="nothing but what fedpriv wrote"):
            save(folder, **contents())
        assert (folder / extra).read_text() == "mine"

    @pytest.mark.parametrize("mark", ["", "[]", "{}", '{"files": 3}', "\xff"])
    def test_a_mark_that_says_nothing(self, mark: str, tmp_path: Path) -> None:
        (tmp_path / MARK).write_text(mark, encoding="latin-1")
        (tmp_path / "runs.csv").write_text("mine")
        with pytest.raises(ConfigurationError):
            save(tmp_path, **contents())
        assert (tmp_path / "runs.csv").read_text() == "mine"

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "results").write_text("mine")
        with pytest.raises(ConfigurationError):
            save(tmp_path / "results", **contents())


class TestInterrupted:
    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
    def test_nothing_is_left_of_new_results(self, error: type[BaseException], tmp_path: Path) -> None:
        with pytest.raises(error):
            save(tmp_path / "results", **contents(figures={"study": Interrupted(error)}))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_old_results_stay_as_they_were(self, error: type[BaseException], tmp_path: Path) -> None:
        folder = save(tmp_path / "results", **contents())
        before = snapshot(folder)
        with pytest.raises(error):
            save(folder, **contents(tables={"runs": TABLE[:1]}, figures={"study": Interrupted(error)}))
        assert snapshot(folder) == before
        assert [path.name for path in tmp_path.iterdir()] == ["results"]

    @pytest.mark.parametrize("moves_done", [0, 1, 2])
    def test_at_every_move(self, moves_done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C after each of the two renames: one whole folder stands there, and nothing beside it."""
        folder = save(tmp_path / "results", **contents())
        before, done, move = snapshot(folder), [], os.replace

        def interrupted(source: Any, target: Any) -> None:
            if len(done) == moves_done:
                monkeypatch.setattr(saving.os, "replace", move)
                raise KeyboardInterrupt
            move(source, target)
            done.append(source)
            if len(done) == moves_done:
                monkeypatch.setattr(saving.os, "replace", move)
                raise KeyboardInterrupt

        monkeypatch.setattr(saving.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(folder, **contents(texts={"new.tex": "new"}))
        assert [path.name for path in tmp_path.iterdir()] == ["results"]
        assert (snapshot(folder) == before) if moves_done < 2 else (folder / "new.tex").is_file()
        assert (folder / MARK).is_file()

    def test_what_is_no_json(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            save(tmp_path / "results", **contents(documents={"study": {"x": object()}}))
        assert list(tmp_path.iterdir()) == []
