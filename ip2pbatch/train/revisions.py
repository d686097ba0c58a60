"""At which commit the data sets of the hub are read: that of the first read, for all stages of one output folder.

OUT/revisions.json   {"owner/name": commit, …}, by what the configs say; who removes a line reads anew
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from ip2pbatch.backends import hub
from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.errors import ModelError, RecipeError
from ip2pbatch.train.model_names import HubSet

FILE = "revisions.json"


def revisions(out: Path) -> dict[str, str]:
    """The commits that are pinned. RecipeError where the file is damaged."""
    path = out / FILE
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
        return {str(name): str(commit) for name, commit in found.items()}
    except (ValueError, AttributeError) as error:
        hint = "started.json of the stages has the commits; without it the hub is asked for the newest"
        raise RecipeError(f"is no list of commits ({error})", file=path, hint=hint) from error


def learn_revisions(sets: Sequence[HubSet], out: Path) -> bool:
    """Pin data sets that are not, at the commit that the hub has now; whether there was any. Of several processes the
    first one's word stands. ModelError where the hub cannot be asked."""
    if not sets:
        return False
    found = {}
    for one in sorted(set(sets)):
        data = hub.look_up_data(*one.hub)
        if data is None:
            said = f"{one} was never read here, and the hub is not reachable"
            raise ModelError(said, hint="run where there is a network, or give a folder: ./data/name")
        found[str(one)] = data.commit
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / f".{FILE}.lock"):
        text = json.dumps(found | revisions(out), indent=1)
        write_whole(out / FILE, f"{text}\n".encode())
    return True
