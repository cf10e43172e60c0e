"""What ``sam build`` left behind: does each function start from it, with nothing else at hand?

The libraries in it are for Lambda's interpreter. Where that is not to be had, the make target that
sam calls builds a second artifact, for the interpreter of these tests, and that one is tried.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.template.cfn import ROOT, deploy, parse

BUILT = ROOT / ".aws-sam" / "build"
LIMIT = 250 * 2**20  # Lambda takes no more, unzipped
OURS = {"saga_core", "infra", "handlers", "examples"}
FUNCTIONS = {
    name: resource["Properties"]["Handler"]
    for name, resource in parse()["Resources"].items()
    if resource["Type"] == "AWS::Serverless::Function"
}

# What Lambda does at a cold start. -I and -S leave the standard library and nothing else on the
# path. The function's name in the environment makes our handlers build their parts at once.
COLD_START = """
import importlib, json, sys
folder, module, name = sys.argv[1:]
sys.path.insert(0, folder)
handler = getattr(importlib.import_module(module), name)
files = sorted({m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)})
print(json.dumps({"callable": callable(handler), "files": files}))
"""
SUFFIX = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"


def run(python, *arguments, env=None):
    return subprocess.run(
        [python, "-I", "-S", "-B", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=BUILT,
        env=env,
    )


def can_load(python, folder):
    """The compiled parts of the artifact are made for this interpreter."""
    suffix = run(python, "-c", SUFFIX).stdout.strip()
    return bool(suffix) and any(folder.glob(f"pydantic_core/*{suffix}"))


@pytest.fixture(scope="session")
def built():
    folders = {name: BUILT / name for name in FUNCTIONS}
    missing = [name for name, folder in folders.items() if not folder.is_dir()]
    assert not missing, "run `make build` first"
    return folders


@pytest.fixture(scope="session")
def runnable(built, tmp_path_factory):
    """An interpreter, and for each function the folder to run with it."""
    sample = next(iter(built.values()))
    # a name on the path may be an empty shim: what counts is whether it answers
    candidates = [os.environ.get("PYTHON313"), sys.executable, shutil.which("python3.13")]
    for python in filter(None, candidates):
        if can_load(python, sample):
            return python, built
    folder = tmp_path_factory.mktemp("artifact")
    version = f"SAGA_PYTHON={sys.version_info.major}.{sys.version_info.minor}"
    here = [version, f"SAGA_PLATFORM={platform_tag()}", f"BUILD_PYTHON={sys.executable}"]
    subprocess.run(
        ["make", "--silent", "build-Here", f"ARTIFACTS_DIR={folder}", *here],
        check=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL"}},
    )
    assert can_load(sys.executable, folder)
    return sys.executable, dict.fromkeys(built, folder)


def platform_tag():
    """The platform of this machine, as the names of wheels have it."""
    here = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return here.replace("linux_", "manylinux2014_")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_starts_from_the_artifact_alone(runnable, name):
    python, folders = runnable
    environment = deploy()[name]["Environment"]["Variables"]
    lambda_sets = {"AWS_LAMBDA_FUNCTION_NAME": name, "AWS_REGION": "eu-west-1"}
    result = run(
        python,
        "-c",
        COLD_START,
        str(folders[name]),
        *FUNCTIONS[name].rsplit(".", 1),
        env=environment | lambda_sets | {"AWS_DEFAULT_REGION": "eu-west-1"},
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["callable"]
    from_elsewhere = [f for f in report["files"] if Path(f).is_relative_to(ROOT)]
    assert [f for f in from_elsewhere if not Path(f).is_relative_to(folders[name])] == []


def test_the_artifact_holds_the_locked_libraries_and_our_packages_and_nothing_else(built):
    lock = (ROOT / "requirements" / "runtime.txt").read_text()
    locked = {f"{n}-{v}" for n, v in re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)}
    for folder in built.values():
        infos = [p for p in folder.iterdir() if p.suffix == ".dist-info"]
        assert {p.stem.replace("_", "-") for p in infos} == locked
        theirs = {
            line.split(",")[0].split("/")[0]
            for info in infos
            for line in (info / "RECORD").read_text().splitlines()
        }
        here = {p.name for p in folder.iterdir()} - {"__pycache__"}
        assert here - theirs == OURS


def test_all_functions_share_one_content_so_that_sam_uploads_it_once(built):
    contents = [
        {p.relative_to(folder): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
        for folder in built.values()
    ]
    assert all(content == contents[0] for content in contents)


def test_the_artifact_fits_into_lambda(built, capsys):
    folder = next(iter(built.values()))
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    with capsys.disabled():
        print(f"\n{size / 2**20:.0f} MiB unzipped; Lambda takes {LIMIT / 2**20:.0f}")  # noqa: T201 - a figure
    assert size < LIMIT
