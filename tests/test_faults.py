"""How strong tests are (tests/faults.py), on a package with five faults."""

import ast
import textwrap
from pathlib import Path
from types import SimpleNamespace

import faults as command
import pytest
from fault_places import faults


def changes(source: str) -> list[str]:
    return [fault.change for fault in faults("vlt/x.py", source.encode())]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("a < b", ["a < b -> a <= b"]),
        (
            "a == b is not c",
            ["a == b is not c -> a == b is c", "a == b is not c -> a != b is not c"],
        ),
        ("a not in b", ["a not in b -> a in b"]),
        ("a + b * c", ["a + b * c -> a - b * c", "b * c -> b / c"]),
        ("-a", ["-a -> a"]),
        ("a and b or c", ["a and b -> a or b", "a and b or c -> (a and b) and c"]),
        ("a if not b else c", ["not b -> b"]),
        ("x = 3", ["3 -> 4"]),
        ("x = 0.0, 0.5", ["0.0 -> 1.0", "0.5 -> 0.55"]),
        ("x -= a", ["x -= a -> x += a"]),
        ("True, None, 'a', a @ b, ~a", []),
        ('def f(a: "1 < 2" = b) -> x[0]:\n    """1 < 2."""', []),
        ("x: tuple[3] = a", []),
        ("f'{a + 1:>{3}}'", []),
        ("if __name__ == '__main__':\n    main(1)", []),
    ],
)
def test_kinds_of_faults(source, found):
    assert sorted(changes(source)) == sorted(found)


def test_a_fault_is_put_where_it_was_found():
    """After multi-byte letters, below the first line, with the precedence that the change shows."""
    source = 'x = "é", a * -(n + m)\nif x:\n    x += y  # all\n'.encode()
    written = [ast.unparse(ast.parse(f.put_into(source))) for f in faults("vlt/x.py", source)]
    assert written == [
        "x = ('é', a / -(n + m))\nif x:\n    x += y",
        "x = ('é', a * (n + m))\nif x:\n    x += y",
        "x = ('é', a * -(n - m))\nif x:\n    x += y",
        "x = ('é', a * -(n + m))\nif x:\n    x -= y",
    ]


FILES = {
    "vlt/__init__.py": "",  # otherwise an installed vlt would come first
    "vlt/room/__init__.py": "",
    "vlt/room/counts.py": "def more(n):\n    return n + 1\n",
    "vlt/room/used.py": """
        from vlt.room.counts import more

        def most(n):
            return more(n) * 3
    """,
    "vlt/room/alone.py": "LIMIT = 7\n",
    "tests/helper.py": "from vlt.room import used\n",
    "tests/room/test_counts.py": """
        import pytest
        from vlt.room.counts import more

        def test_more():
            assert more(0) == 1

        def test_less():
            assert more(-1) == 0
    """,
    "tests/test_through.py": """
        from helper import used

        def test_most():
            assert used.most(1) == 6
    """,
    "tests/conftest.py": "",
    "pyproject.toml": "[tool.pytest.ini_options]\n",
}


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # twice as fast
    root = tmp_path / "given"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text))
    return root


def test_as_many_as_asked_for_at_most_two_a_module(checkout):
    every = command.draw(checkout, 10, seed=0)
    assert sorted(fault.change for fault in every) == [
        "1 -> 2", "3 -> 4", "7 -> 8", "more(n) * 3 -> more(n) / 3", "n + 1 -> n - 1"
    ]  # fmt: skip
    assert command.draw(checkout, 2, seed=0) == every[:2]
    assert any(command.draw(checkout, 10, seed) != every for seed in range(1, 5))
    (checkout / "vlt/room/alone.py").write_text("LIMITS = 7, 8, 9\n")
    assert [f.file for f in command.draw(checkout, 10, seed=0)].count("vlt/room/alone.py") == 2


def test_tests_of_a_module(checkout):
    counts, used = "vlt/room/counts.py", "vlt/room/used.py"
    assert command.own_tests(checkout, counts) == ["tests/room/test_counts.py"]
    assert command.own_tests(checkout, used) == []
    assert command.importing_tests(checkout, counts) == [
        "tests/room/test_counts.py", "tests/test_through.py"
    ]  # fmt: skip
    assert command.importing_tests(checkout, used) == ["tests/test_through.py"]
    (checkout / "vlt/room/__init__.py").write_text("from vlt.room.used import most\n")
    (checkout / "tests/room/test_room.py").write_text("import vlt.room\n")
    assert command.own_tests(checkout, "vlt/room/__init__.py") == ["tests/room/test_room.py"]
    assert command.importing_tests(checkout, used) == [
        "tests/test_through.py", "tests/room/test_room.py"
    ], "the fewest steps first"  # fmt: skip
    (checkout / "vlt/door.py").write_text("from vlt.room.counts import more\n")
    (checkout / "tests/room/test_opened.py").write_text("from vlt import door\n")
    assert "tests/room/test_opened.py" in command.importing_tests(checkout, counts)
    (checkout / "tests/room/test_opened.py").unlink()
    (checkout / "tests/test_room_used.py").touch()
    (checkout / "tests/room/test_used_twice.py").touch()
    assert command.own_tests(checkout, used) == [
        "tests/room/test_used_twice.py", "tests/test_room_used.py"
    ]  # fmt: skip
    found = command.importing_tests(checkout, counts)
    assert set(found[:3]) == {
        "tests/room/test_counts.py", "tests/room/test_used_twice.py", "tests/test_room_used.py"
    }  # fmt: skip
    assert set(found[3:]) == {"tests/test_through.py", "tests/room/test_room.py"}


def test_faults_are_found_counted_and_named(checkout, tmp_path, capsys, monkeypatch):
    known = ("vlt/room/alone.py", "LIMIT = 7", "7 -> 8")
    monkeypatch.setattr(command, "EQUIVALENT", {known: "nothing reads it"})
    (checkout / "tests/test_through.py").write_text("from helper import used\n")
    before = {path: path.read_bytes() for path in checkout.rglob("*.py")}
    arguments = [f"--checkout={checkout}", f"--out={tmp_path / 'out.json'}", "--count=9"]
    command.main(arguments)
    first = capsys.readouterr().out
    table = [" ".join(line.split()) for line in first.splitlines()[5:]]
    assert table[:4] == [
        "5 faults in 3 modules",
        "found by own name 2 40.0%",
        "found by importers 0 0.0%",
        "found by either 2 40.0%",
    ]
    assert sorted(table[4:]) == [
        "equivalent: vlt/room/alone.py:1:9 7 -> 8 in LIMIT = 7",
        "not found: vlt/room/used.py:5:12 more(n) * 3 -> more(n) / 3 in return more(n) * 3",
        "not found: vlt/room/used.py:5:22 3 -> 4 in return more(n) * 3",
        "nothing reads it",
    ]
    assert "found by own name: tests/room/test_counts.py::test_more" in first
    assert before == {path: path.read_bytes() for path in checkout.rglob("*.py")}
    command.main(arguments)
    assert capsys.readouterr().out.splitlines() == first.splitlines()[5:]
    (checkout / "tests/room/test_counts.py").write_text("def test_more():\n    assert False\n")
    with pytest.raises(SystemExit, match="test_more fails without a fault, too"):
        command.main(arguments)


def test_a_test_that_hangs_has_found_it_and_many_that_take_long_have_not(
    checkout, tmp_path, monkeypatch
):
    (checkout / "tests/room/test_counts.py").write_text(
        "import time\n\ndef test():\n    time.sleep(600)\n"
    )
    (tmp_path / "copies").mkdir()
    copy = command.Copy(checkout, tmp_path / "copies")
    assert copy.run(["tests/room/test_counts.py"], limit=1) == command.OUT_OF_TIME
    monkeypatch.setattr(command, "HANG_SECONDS", 1)
    assert copy.run(["tests/room/test_counts.py"], limit=60) == "a hang"


@pytest.mark.parametrize(
    ("ends", "answer"),
    [
        (["t"], ("own name", "t")),
        ([command.OUT_OF_TIME, "t"], ("importers", "t")),
        ([command.OUT_OF_TIME, ""], ("", command.OUT_OF_TIME)),
        (["", ""], ("", "")),
    ],
)
def test_where_time_was_out_it_is_said(checkout, ends, answer):
    given = iter(ends)
    fault = faults("vlt/room/counts.py", b"n < 1")[0]
    (checkout / "tests/test_other.py").write_text("import vlt.room.counts\n")
    copy = SimpleNamespace(root=checkout, find=lambda fault, tests, limit: next(given))
    assert command.tried(fault, copy, 1) == answer
