"""The fuzzer: `python -m tests.fuzz.run --seconds N` runs every target with atheris for N seconds in all.

`--engine plain` needs no atheris: mutated seeds, `--runs` of them for each target, the same for the same `--seed`. Both watch for
crashes, hangs, memory past the target's bound and files written outside its scratch directory. Exit 1 with any finding.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

# The targets are imported where they are used: atheris follows only code that is imported under its eyes.

KEPT = Path(".fuzz")
"""Corpora and the inputs that broke something, by target; git ignores it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="atheris: for all targets together")
    parser.add_argument("--runs", type=int, default=500, help="plain: for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("atheris", "plain"), default="atheris")
    parser.add_argument("--target", action="append", help="only these; repeat for more")
    given = parser.parse_args()
    if given.engine == "plain":
        return _plain(given.target, given.runs, given.seed)
    names = given.target or _names()
    if len(names) == 1:
        return _fuzz(names[0], given.seconds, given.seed)
    return max([_child(name, max(1, given.seconds // len(names)), given.seed) for name in names])


def _names() -> list[str]:
    from tests.fuzz.inputs import targets

    with tempfile.TemporaryDirectory() as scratch:
        return list(targets(Path(scratch)))


def _plain(only: list[str] | None, runs: int, seed: int) -> int:
    from tests.fuzz.guard import check, forbid_writes_outside
    from tests.fuzz.inputs import targets

    findings = []
    with tempfile.TemporaryDirectory() as scratch:
        known = targets(Path(scratch))
        forbid_writes_outside(Path(scratch))
        for name in only or known:
            findings += check(name, known[name], runs=runs, seed=seed)
    print(f"{len(only or known)} targets, {runs} runs each, {len(findings)} findings", *findings, sep="\n")
    return 1 if findings else 0


def _child(name: str, seconds: int, seed: int) -> int:
    command = [sys.executable, "-m", "tests.fuzz.run", "--target", name, "--seconds", str(seconds), "--seed", str(seed)]
    done = subprocess.run(command, check=False, timeout=seconds * 4 + 120, stderr=subprocess.PIPE, text=True)
    last = [line for line in done.stderr.splitlines() if line.startswith(("#", "Done", "=="))][-1:]
    print(f"{name}: {'finding, see ' + str(KEPT / name) if done.returncode else 'nothing found'}  {' '.join(last)}")
    if done.returncode:
        print(done.stderr[-3000:])
    return 1 if done.returncode else 0


def _fuzz(name: str, seconds: int, seed: int) -> int:
    """One target under atheris, which ends the process itself."""
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install -e '.[fuzz]', or give --engine plain.", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["firmware"]):
        from tests.fuzz.inputs import targets
    from tests.fuzz.guard import forbid_writes_outside

    corpus, scratch = KEPT / name / "corpus", KEPT / name / "scratch"
    for folder in (corpus, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    target = targets(scratch)[name]
    for number, data in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(data)
    bounds = [f"-max_total_time={seconds}", f"-timeout={int(target.seconds)}", "-rss_limit_mb=512", "-max_len=131072"]
    places = [f"-artifact_prefix={KEPT / name}/", f"-seed={seed + 1}", str(corpus)]
    forbid_writes_outside(scratch)
    atheris.Setup([sys.argv[0], *bounds, *places], lambda data: target.run(data) and None)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
