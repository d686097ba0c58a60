"""What docs/cluster.md gives for Slurm and Kubernetes, on stand-ins."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
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


# What KubeRay's Go types (ray-operator/apis/ray/v1) say of the fields that the job has, as a JSON schema of these.
# A field of another name, or a number where they have a text, is seen here and not by who applies it.
TEXT, NUMBER, YES = ({"type": one} for one in ("string", "integer", "boolean"))
TEXTS = {"type": "object", "additionalProperties": TEXT}  # map[string]string


def fields(needed: str = "", **properties: object) -> dict[str, object]:
    """An object of these fields and no other, of which some are needed."""
    return {
        "type": "object", "properties": properties, "required": needed.split(), "additionalProperties": False
    }  # fmt: skip


def listed(item: object) -> dict[str, object]:
    return {"type": "array", "items": item, "minItems": 1}


QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+([KMGT]i)?$"}}
CONTAINER = fields(
    "name image", name=TEXT, image=TEXT, env=listed(fields("name value", name=TEXT, value=TEXT)),
    resources=fields(limits=QUANTITIES),
    volumeMounts=listed(fields("name mountPath", name=TEXT, mountPath=TEXT)),
)  # fmt: skip
VOLUME = fields("name", name=TEXT, persistentVolumeClaim=fields("claimName", claimName=TEXT))
TEMPLATE = fields("spec", spec=fields("containers", containers=listed(CONTAINER), volumes=listed(VOLUME)))
HEAD = fields("rayStartParams template", rayStartParams=TEXTS, template=TEMPLATE)
WORKERS = fields(
    "groupName minReplicas maxReplicas rayStartParams template", groupName=TEXT, replicas=NUMBER, minReplicas=NUMBER,
    maxReplicas=NUMBER, rayStartParams=TEXTS, template=TEMPLATE,
)  # fmt: skip
RAY_JOB = fields(
    "apiVersion kind metadata spec", apiVersion={"const": "ray.io/v1"}, kind={"const": "RayJob"},
    metadata=fields("name", name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}),  # of a service too
    spec=fields(
        "entrypoint rayClusterSpec", entrypoint=TEXT, backoffLimit=NUMBER, shutdownAfterJobFinishes=YES,
        rayClusterSpec=fields(
            "headGroupSpec", rayVersion=TEXT, enableInTreeAutoscaling=YES, headGroupSpec=HEAD,
            workerGroupSpecs=listed(WORKERS),
        ),
    ),
)  # fmt: skip


def test_the_ray_job_has_the_fields_of_kuberay_and_their_types() -> None:
    job = yaml.safe_load((DOCS / "rayjob.yaml").read_text("utf-8"))
    jsonschema.validate(job, RAY_JOB)
    for spoil in (
        lambda job: job["spec"].update(entryPoint="x"),
        lambda job: job["spec"]["rayClusterSpec"].update(rayVersion=2.6),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].update(rayStartParams={"num-cpus": 0}),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("rayStartParams"),
    ):
        other = copy.deepcopy(job)
        spoil(other)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, RAY_JOB)
