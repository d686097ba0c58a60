"""What docs/cluster.md gives for Slurm and Kubernetes, on stand-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parents[3] / "docs"
STAND_IN = """#!{python}
import json, os, sys
with open({diary!r}, "a") as file:
    kept = {{name: os.environ[name] for name in os.environ if name.startswith("RAY_")}}
    file.write(json.dumps([{name!r}, sys.argv[1:], kept]) + "\\n")
if {name!r} == "scontrol":
    print("node-a\\nnode-b")
elif {name!r} != "ip2pbatch":
    rest = sys.argv[sys.argv.index("--") + 1 :] if {name!r} == "ray" else sys.argv[sys.argv.index("ray") :]
    os.execvp(rest[0], rest)
"""


@pytest.mark.skipif(os.name == "nt", reason="Slurm's scripts are bash")
def test_the_slurm_script_has_the_run_find_the_job_s_own_ray(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    for name in ("scontrol", "srun", "ray", "ip2pbatch"):
        (tmp_path / name).write_text(STAND_IN.format(python=sys.executable, diary=str(diary), name=name))
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "41234", "SLURM_JOB_NUM_NODES": "2",
           "SLURM_JOB_NODELIST": "node-[a-b]"}  # fmt: skip
    done = subprocess.run(["bash", DOCS / "ray.sbatch", "/shared/r.yaml"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = {name: (arguments, kept) for name, arguments, kept in map(json.loads, diary.read_text().splitlines())}
    assert said["ray"][0][:5] == ["symmetric-run", "--address", "node-a:21234", "--min-nodes", "2"]
    arguments, kept = said["ip2pbatch"]
    assert arguments == ["run", "/shared/r.yaml", "--on", "ray"]
    token = kept.pop("RAY_AUTH_TOKEN")
    assert (len(token), int(token, 16) > 0) == (64, True)
    assert kept == {
        "RAY_ADDRESS": "node-a:21234", "RAY_AUTH_MODE": "token", "RAY_TMPDIR": "/tmp/ray-41234",
        "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip


def test_the_ray_job_has_one_image_and_one_disk_for_all() -> None:
    job = yaml.safe_load((DOCS / "rayjob.yaml").read_text("utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["entrypoint"] == "ip2pbatch run /shared/recipe.yaml --on ray --workers 1..8"
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (1, 8)
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], workers)]
    containers = [pod["containers"][0] for pod in pods]
    for name in ("image", "env", "volumeMounts"):
        assert containers[0][name] == containers[1][name]
    assert pods[0]["volumes"] == pods[1]["volumes"]
    assert containers[0]["volumeMounts"][0]["name"] == pods[0]["volumes"][0]["name"]
    assert containers[1]["resources"]["limits"]["nvidia.com/gpu"] == "1"
