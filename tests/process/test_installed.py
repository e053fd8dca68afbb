"""What users install: the wheel, built from the source distribution, in a place of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_has_the_scripts(tmp_path):
    """sdist, wheel from it, installed elsewhere, imported from there: scripts, the page's files, the type marker."""
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name.startswith("redis_llm_router-")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    code = (
        "import pathlib, redis_router, redis_router.store.scripts as s;"
        "home = pathlib.Path(redis_router.__file__).parent;"
        f"assert home == pathlib.Path({str(site)!r}) / 'redis_router', home;"
        "assert s.folder() == home / 'lua', s.folder();"
        "assert s.load('record').text.startswith('-- The health record');"
        "assert (home / 'py.typed').exists();"
        "import redis_router.operate.service as o;"
        "assert all(o._file(path).body for path in o.FILES)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": str(site)})
    assert {path.name for path in site.iterdir()} >= {"redis_router", "bin"}
    assert not (site / "tests").exists()
    assert not (site / "lua").exists()
