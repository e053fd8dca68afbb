"""`redis-router gateway` beside LiteLLM's proxy: `python -m benchmarks.gateway`.

    pip install -e '.[bench,test]' 'litellm[proxy]'
    python -m benchmarks.gateway --quick

The costs first, from rounds in which each process is asked in turn; then the user's path: incidents, and what the users
of a gateway see of them. All servers run on this machine; the provider is one that answers at once. Without
`litellm[proxy]` our gateway is measured alone.
"""

import argparse
import importlib.metadata
import json
import shlex
import sys
import time
from datetime import date
from pathlib import Path

from benchmarks.gateway import costs, path
from benchmarks.gateway.costs import Costs
from benchmarks.gateway.path import Seen
from benchmarks.gateway.processes import has_litellm
from benchmarks.measure import machine
from benchmarks.quality.worlds.command import commit
from redis_router.cli.terminal import EndedBySignals

RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    root = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    root.add_argument("--quick", action="store_true", help="few requests, one round")
    root.add_argument("--rounds", type=int, default=5)
    root.add_argument("--only", choices=["costs", "path"], help="the other part stays as it was measured before")
    root.add_argument("--without-litellm", action="store_true", help="our gateway alone")
    root.add_argument("--results", type=Path, default=RESULTS, help="folder for gateway.md and gateway.json")
    arguments = root.parse_args()
    beside = has_litellm() and not arguments.without_litellm
    said = _before(arguments.results / "gateway.json") if arguments.only else {}
    asked = [each for each in sys.argv[1:] if each not in ("--results", str(arguments.results))]
    command = shlex.join(["python", "-m", "benchmarks.gateway", *asked])
    began, code = time.monotonic(), commit()
    if arguments.only != "path":
        size, rounds = (costs.QUICK, 1) if arguments.quick else (costs.FULL, arguments.rounds)
        found = costs.measured(rounds, size, litellm=beside)
        said["costs"] = {"about": about(command, code, began, beside), "samples": found.samples}
    if arguments.only != "costs":
        seen = path.measured(path.QUICK if arguments.quick else path.FULL, litellm=beside)
        said["path"] = {"about": about(command, code, began, beside), "seen": [each.told() for each in seen]}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "gateway.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    (arguments.results / "gateway.md").write_text(text := markdown(said))
    print(text)
    return 0


def _before(path: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def about(command: str, code: str, began: float, beside: bool) -> dict[str, str]:
    """Where, what and when."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("uvicorn", "aiohttp", "httpx")]
    return {
        "commit": f"{code}, {date.today().isoformat()}",
        "machine": machine(),
        "LiteLLM": importlib.metadata.version("litellm") if beside else "not measured",
        "libraries": ", ".join(versions),
        "command": command,
        "measured in": f"{(time.monotonic() - began) / 60:.0f} minutes",
    }


def markdown(said: dict[str, dict[str, object]]) -> str:
    """The report of what is in `gateway.json`."""
    lines = ["# `redis-router gateway` beside LiteLLM's proxy"]
    for part, title in (("costs", "What it costs"), ("path", "The user's path")):
        if part not in said:
            continue
        found = dict(said[part])
        lines += ["", f"## {title}", "", *(f"- {name}: {value}" for name, value in found["about"].items()), ""]  # type: ignore[attr-defined]
        if part == "costs":
            lines.append(Costs(found["samples"]).table())  # type: ignore[arg-type]
        else:
            lines.append(path.table([Seen(**each) for each in found["seen"]]))  # type: ignore[attr-defined]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with EndedBySignals():  # through the stack: every process is ended
        sys.exit(main())
