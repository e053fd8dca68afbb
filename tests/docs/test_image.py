"""deploy/Dockerfile: its steps, done here one by one, as there may be no engine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "Dockerfile").read_text()
STEPS = [tuple(line.split(" ", 1)) for line in TEXT.splitlines() if line and not line.startswith("#")]
COPIED = [name for verb, rest in STEPS if verb == "COPY" and "--from" not in rest for name in rest.split()[:-1]]
RUN = [rest for verb, rest in STEPS if verb == "RUN"]


def test_the_folder_that_the_engine_is_sent_has_what_is_copied_and_no_more():
    """.dockerignore shuts all out, and lets these in."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(COPIED)


def test_it_has_no_rights_and_is_ended_by_sigterm():
    """A numeric user that is not root, for Kubernetes' runAsNonRoot; nothing is built in the last stage."""
    last = STEPS[max(number for number, (verb, _) in enumerate(STEPS) if verb == "FROM") :]
    assert [verb for verb, _ in last] == ["FROM", "COPY", "ENV", "USER", "STOPSIGNAL", "ENTRYPOINT"]
    said = dict(last)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said["USER"])
    assert said["ENTRYPOINT"] == '["redis-router"]'
    assert said["STOPSIGNAL"] == "SIGTERM"
    bases = {rest.split()[0] for verb, rest in STEPS if verb == "FROM"}
    assert len(bases) == 1, "the environment's python is that of its base"
    (version,) = re.findall(r"^python:(\d+\.\d+)-slim$", "\n".join(bases))
    assert f'"Programming Language :: Python :: {version}"' in (ROOT / "pyproject.toml").read_text()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /venv of the image: made by its RUN line, in a folder with no more than its COPY lines bring."""
    source, venv = tmp_path_factory.mktemp("src"), tmp_path_factory.mktemp("image") / "venv"
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    (run,) = RUN
    here = {"/venv": str(venv), " pip ": f" {sys.executable} -m pip ", "python -m venv": f"{sys.executable} -m venv"}
    for theirs, ours in here.items():
        assert theirs in run
        run = run.replace(theirs, ours)
    done = subprocess.run(["bash", "-euc", run], cwd=source, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(source)
    return venv


def inside(image: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of the image, with the folders of its PATH that the Dockerfile adds, from a folder that is empty."""
    (path,) = re.findall(r"PATH=(\S+):\$PATH", TEXT)
    paths = os.pathsep.join([path.replace("/venv", str(image)), os.environ["PATH"]])
    return subprocess.run(command, cwd=image, env={"PATH": paths}, capture_output=True, text=True, timeout=60)


@pytest.mark.long
def test_the_image_has_all_that_gateway_and_worker_need(image):
    """The version, the file of docker-compose.yml checked, the worker's and the pretended provider's modules."""
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert inside(image, "redis-router", "--version").stdout == f"redis-router {version}\n"
    checked = inside(image, "redis-router", "gateway", "-c", str(ROOT / "deploy/gateway/config.yaml"), "--check")
    assert checked.stdout.endswith(": 3 providers, 1 model, 0 keys\n"), checked.stderr
    asked = inside(image, "python", "-c", "import redis_router.gateway.serving, redis_router.demo.provider, httpx")
    assert asked.returncode == 0, asked.stderr
    once = inside(image, "redis-router", "worker", "--once", "--redis", "redis://127.0.0.1:1/0")
    assert once.returncode != 0
    assert "Traceback" not in once.stderr
    assert not {path.name for path in (image / "bin").iterdir()} & {"pip", "pip3", "hatchling"}


def test_its_name_is_the_one_that_kubernetes_is_told():
    """With the version of the package."""
    (name,) = re.findall(r" -t (\S+) \.", TEXT)
    assert f'\nversion = "{name.rpartition(":")[2]}"\n' in (ROOT / "pyproject.toml").read_text()
    found = {
        image
        for path in (ROOT / "deploy" / "kubernetes").glob("*.yml")
        for image in re.findall(r"image: (\S+)", path.read_text())
    }
    assert found == {name}
