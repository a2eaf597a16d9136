"""How many random single faults do the quick tests find?

    python tests/faults.py --count=100 --seed=0 [--checkout=DIR] [--out=FILE]

Each fault (tests/fault_places.py) is written into a copy of the checkout. There the quick tests
named after the module run, then, if all pass, those of the files that reach it by the fewest
imports. A hang is found, too. Neither mutmut nor cosmic-ray draws a sample from a seed and chooses
the tests by module.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fault_places import Fault, faults

ROOT = Path(__file__).resolve().parents[1]
A_MODULE = 2
NEAREST = 40  # test files that are tried beside a module's own
HANG_SECONDS = 60  # for one test
OUT_OF_TIME = "out of time"
# (file, text of the line, change) of each change that no test can detect, and the reason.
EQUIVALENT = {
    (
        "vlt/adapters/dual_attention.py",
        "temporal = channel(Tokens(source, cls=0, protected=0)).x - source",
        "0 -> 1",
    ): "only methods and a last block read these counts, and this block has none and is none",
    (
        "vlt/bench/search.py",
        "return _unit(vectors + NOISE * noise)",
        "vectors + NOISE * noise -> vectors - NOISE * noise",
    ): "noise is as likely with the other sign",
    (
        "vlt/evaluation/answering.py",
        "first = decode(jnp.full((len(states), 1, 1), decode_id, answers.dtype))[:, 0, 0]",
        "1 -> 2",
    ): "one text more, or a word behind the one that is read and sees no later ones",
    (
        "vlt/inference/speech.py",
        "return np.asarray(state.ids[:, 0, history : int(state.length)])",
        "0 -> 1",
    ): "without beams there is one text, and JAX takes the last for any index behind it",
    (
        "vlt/models/chat.py",
        '"logits": self.text.logits(states)[:, 0],',
        "0 -> 1",
    ): "the axis has size 1, and JAX takes the last for any index behind it",
    (
        "vlt/models/search.py",
        "return self.ranked(state, 1)[1][:, 0]",
        "1 -> 2",
    ): "one text more, behind the best",
    (
        "vlt/pytrees/checksum.py",
        "place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)",
        "place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) -> "
        "place * jnp.uint32(size) - jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)",
    ): "every place has the other sign, and is told from the others as before",
    (
        "vlt/storage/trees.py",
        "digest.update(array.reshape(-1).view(np.uint8).data)",
        "1 -> 2",
    ): "numpy takes any negative length for what is left",
    (
        "vlt/tasks/losses.py",
        "return jnp.where(words, loss, 0.0).sum(-1) / words.sum(-1)",
        "-1 -> 1",
    ): "texts are [b, l]: the last axis is axis 1",
}


def draw(checkout: Path, count: int, seed: int) -> list[Fault]:
    """`count` random faults, or as many as there are, at most two per module."""
    files = (path.relative_to(checkout) for path in sorted(checkout.glob("vlt/**/*.py")))
    files = [path for path in files if "configs" not in path.parts]
    every = [f for path in files for f in faults(str(path), (checkout / path).read_bytes())]
    random.Random(seed).shuffle(every)
    taken: Counter[str] = Counter()
    drawn = []
    for fault in every:
        if taken[fault.file] < A_MODULE and len(drawn) < count:
            taken[fault.file] += 1
            drawn.append(fault)
    return drawn


def module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def own_tests(checkout: Path, file: str) -> list[str]:
    """Test files named after the module, in its room's folder or prefixed with the room's name."""
    name = module_name(file).rpartition(".")[2]
    room = "/".join(Path(file).parts[1:-1])  # for a package's own code, the package
    patterns = [f"{room}/test_{name}.py", f"{room}/test_{name}_*.py"]
    patterns += [f"**/test_{room}_{name}.py"] if "/" not in room else []
    found = (path for p in patterns for path in (checkout / "tests").glob(p.lstrip("/")))
    return sorted({str(path.relative_to(checkout)) for path in found})


def importing_tests(checkout: Path, file: str) -> list[str]:
    """Test files that import the module, or a module that does, and so on, the fewest steps first.

    A test file named after a module counts as one that imports it, and a helper's imports as those
    of the test files that import it. Of as many steps, those nearest to the module's room come
    first, then those that import least.
    """
    tests = {path: _all_imports(checkout, path) for path in checkout.glob("tests/**/test_*.py")}
    code = [str(path.relative_to(checkout)) for path in checkout.glob("vlt/**/*.py")]
    imports = {user: imported((checkout / user).read_text("utf-8")) for user in code}
    steps: dict[Path, int] = {}
    reached, users = {file}, {file}
    for step in range(len(code)):
        names = {module_name(user) for user in users}
        found = {path for path, imported in tests.items() if imported & names}
        found |= {checkout / test for user in users - {file} for test in own_tests(checkout, user)}
        steps |= dict.fromkeys(found - steps.keys(), step)
        users = {user for user in code if imports[user] & names} - reached
        reached |= users
    room = checkout / "tests" / Path(file).parent.relative_to("vlt")

    def rank(path: Path) -> tuple[int, int, int, Path]:
        shared = len(Path(os.path.commonpath([path.parent, room])).parts)
        return steps[path], -shared, len(tests[path]), path

    return [str(path.relative_to(checkout)) for path in sorted(steps, key=rank)]


def _all_imports(checkout: Path, file: Path) -> set[str]:
    """What a test file imports, directly or through the helpers that it imports."""
    helpers = {path.stem: path for path in checkout.glob("tests/**/*.py")}
    found: set[str] = set()
    files, seen = [file], {file}
    while files:
        names = imported(files.pop().read_text("utf-8"))
        found |= names
        new = {helpers[name] for name in names & helpers.keys()} - seen
        files += new
        seen |= new
    return found


def imported(text: str) -> set[str]:
    """Modules that a text names and names that it imports, also in code for child processes."""
    found = set(re.findall(r"\bvlt(?:\.\w+)+", text))
    found |= set(re.findall(r"^\s*import ([\w.]+)", text, re.MULTILINE))
    for module, many, names in re.findall(
        r"^\s*from ([\w.]+) import (?:\(([^)]*)\)|(.*))", text, re.MULTILINE
    ):
        listed = re.findall(r"(\w+)(?: as \w+)?", many or names)
        found |= {module, *(f"{module}.{name}" for name in listed)}
    return found


class Copy:
    """A copy of a checkout in which tests run, with `shared` beside it as beside the original."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.root = folder / "checkout"
        kept = shutil.ignore_patterns(".git", "runs", "node_modules")
        shutil.copytree(checkout, self.root, symlinks=True, ignore=kept)
        (folder / "shared").symlink_to(checkout.resolve().parent / "shared")
        self.log = folder / "log.txt"
        self.data = folder / "data"
        (self.root / ".pytest_cache/vlt").mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.root / ".pytest_cache/vlt", self.data)

    def find(self, fault: Fault, tests: list[str], limit: float) -> str:
        """The first test that fails with the fault within `limit` seconds, or how the run ends."""
        path = self.root / fault.file
        source = path.read_bytes()
        path.write_bytes(fault.put_into(source))
        try:
            found = self.run(tests, limit)
        finally:
            path.write_bytes(source)
            # Otherwise the data of a faulty generator would be kept.
            shutil.rmtree(self.root / ".pytest_cache/vlt", ignore_errors=True)
            shutil.copytree(self.data, self.root / ".pytest_cache/vlt")
        return found

    def run(self, tests: list[str], limit: float | None = None) -> str:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        command += [f"-ofaulthandler_timeout={HANG_SECONDS}", "-ofaulthandler_exit_on_timeout=1"]
        environment = os.environ | {"PYTHONPATH": str(self.root)}
        # Bytecode is keyed by the source's size and second, which another fault may share.
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                return OUT_OF_TIME
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status in (0, 5):  # 5: all of the tests are slow, so none ran
            return ""
        printed = self.log.read_text("utf-8", "replace")
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", printed, re.MULTILINE)
        hung = "a hang" if "Timeout (" in printed else f"status {status}"
        return failed[1] if failed else hung


def tried(fault: Fault, copy: Copy, limit: float) -> tuple[str, str]:
    """Who finds a fault ("own name", "importers" or nobody: "") and by which test.

    For nobody, the second value says whether time ran out.
    """
    own = own_tests(copy.root, fault.file)
    importers = importing_tests(copy.root, fault.file)
    others = [test for test in importers if test not in own][:NEAREST]
    late = ""
    for who, tests in (("own name", own), ("importers", others)):
        found = copy.find(fault, tests, limit) if tests else ""
        if found not in ("", OUT_OF_TIME):
            return who, found
        late = late or found
    return "", late


def campaign(checkout: Path, drawn: list[Fault], out: Path, limit: float) -> dict[str, list[str]]:
    """Tries the faults that `out` does not hold yet; returns the answers by fault."""
    answers = json.loads(out.read_text("utf-8")) if out.exists() else {}
    begun, left = time.monotonic(), [fault for fault in drawn if str(fault) not in answers]
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(checkout, Path(folder))
        for done, fault in enumerate(left, 1):
            who, test = answers[str(fault)] = tried(fault, copy, limit)
            out.write_text(json.dumps(answers, indent=1), "utf-8")
            minutes = (time.monotonic() - begun) / done * (len(left) - done) / 60
            answer = f"found by {who}: {test}" if who else f"NOT FOUND {test}"
            print(f"{done}/{len(left)}, {minutes:.0f} min left  {fault}  {answer}", flush=True)
        finders = {answers[str(fault)][1].partition("[")[0] for fault in drawn}
        named = sorted(test for test in finders if "::" in test)
        if named and (failed := copy.run(named)):
            raise SystemExit(f"{failed} fails without a fault, too: its answers in {out} are void")
    return answers


def report(checkout: Path, drawn: list[Fault], answers: dict[str, list[str]]) -> str:
    """A table of how many faults each group found, then the faults that were not found."""
    finders = Counter(answers[str(fault)][0] for fault in drawn)
    lines = [f"{len(drawn)} faults in {len({fault.file for fault in drawn})} modules"]
    shares = {"own name": finders["own name"], "importers": finders["importers"]}
    shares["either"] = sum(shares.values())
    lines += [f"found by {who:10}{n:4}  {n / len(drawn):.1%}" for who, n in shares.items()]
    for fault in drawn:
        who, late = answers[str(fault)]
        if not who:
            line = line_of(checkout, fault)
            reason = EQUIVALENT.get((fault.file, line, fault.change))
            state = "equivalent" if reason else f"not found, {late}" if late else "not found"
            lines.append(f"{state}: {fault}  in  {line}")
            lines += [f"    {reason}"] if reason else []
    return "\n".join(lines)


def line_of(checkout: Path, fault: Fault) -> str:
    source = (checkout / fault.file).read_text("utf-8")
    return source.splitlines()[fault.line - 1].strip()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument(
        "--out", type=Path, help="JSON of answers; what it holds is not tried again"
    )
    parser.add_argument(
        "--limit", type=float, default=300, help="seconds of tests for a fault, twice"
    )
    given = parser.parse_args(arguments)
    out = given.out or Path(tempfile.gettempdir()) / f"faults-{os.getpid()}.json"
    drawn = draw(given.checkout, given.count, given.seed)
    answers = campaign(given.checkout, drawn, out, given.limit)
    print(report(given.checkout, drawn, answers))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that running tests end as well
    main()
