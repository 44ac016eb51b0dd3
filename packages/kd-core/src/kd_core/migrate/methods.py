"""Terms that are those of a method -> ``method:``, as a person would write them."""

from __future__ import annotations

from typing import Any

from kd_core.migrate.draft import Draft

Losses = dict[str, dict[str, Any]]


def as_method(draft: Draft, stage: str) -> None:
    """Put a method's name in the place of a stage's terms, where they are a method's."""
    values = draft.config["stages"][stage]
    losses: Losses = values["losses"]
    for recognise in (_kd, _dist, _simple_recipe, _pooled):
        method = recognise(draft, losses)
        if method is None:
            continue
        ordered: dict[str, Any] = {}
        for key, value in values.items():
            ordered |= {"method": method} if key == "losses" else {key: value}
        draft.config["stages"][stage] = ordered
        moved = {path: (*path[:2], "method") for path in draft.comments if path[:3] == ("stages", stage, "losses")}
        for old, new in moved.items():
            draft.comments.setdefault(new, []).extend(draft.comments.pop(old))
        return


def _only(term: dict[str, Any], loss: str, *keys: str) -> bool:
    """Whether a term is this loss with no other keys than a weight and these."""
    return term["loss"] == loss and set(term) <= {"loss", "weight", *keys}


def _kd(draft: Draft, losses: Losses) -> dict[str, Any] | None:
    """Soft targets, with labels."""
    if set(losses) != {"ce", "kd"} or not _only(losses["ce"], "cross_entropy"):
        return None
    kd = losses["kd"]
    if not _only(kd, "kd", "temperature", "standardize"):
        return None
    method = "logit_standardization" if kd.get("standardize") else "kd"
    weights = {"weight": kd.get("weight", 1), "ce_weight": losses["ce"].get("weight", 1)}
    return {"method": method, "temperature": kd["temperature"], **weights}


def _dist(draft: Draft, losses: Losses) -> dict[str, Any] | None:
    """DIST with labels."""
    if set(losses) != {"ce", "dist"} or losses["ce"] != {"loss": "cross_entropy"}:
        return None
    dist = losses["dist"]
    if not _only(dist, "dist", "beta", "gamma", "temperature"):
        return None
    weight = {"weight": dist.get("weight", 1)}
    own = {key: value for key, value in dist.items() if key not in ("loss", "weight")}
    return {"method": "dist", **weight, **own}


def _simple_recipe(draft: Draft, losses: Losses) -> dict[str, Any] | None:
    """SRD on the pooled features, with labels."""
    if set(losses) != {"ce", "kd", "srd"} or losses["ce"] != {"loss": "cross_entropy"}:
        return None
    kd, srd = losses["kd"], losses["srd"]
    ends = {"student": "adapters.projector", "teacher": "teacher.@penultimate"}
    own = draft.adapters.get("projector", {})
    plain = own.get("inputs") == "student.@penultimate" and set(own) == {"module", "inputs", "out_features"}
    if not (plain and _only(kd, "kd", "temperature") and _only(srd, "srd", "exponent", "student", "teacher")):
        return None
    if {key: srd[key] for key in ends} != ends:
        return None
    del draft.adapters["projector"]
    weights = {"weight": srd.get("weight", 1), "kd_weight": kd.get("weight", 1)}
    return {"method": "srd", "exponent": srd["exponent"], "temperature": kd["temperature"], **weights}


def _pooled(draft: Draft, losses: Losses) -> dict[str, Any] | None:
    """Mean squared difference of what the classifiers take, with labels: a ResNet's pooled features."""
    others = [term for name, term in losses.items() if name != "ce"]
    if losses.get("ce") != {"loss": "cross_entropy"} or len(others) != 1:
        return None
    ends = {"student": "student.avgpool", "teacher": "teacher.avgpool"}
    if not _only(others[0], "mse", *ends) or {key: others[0].get(key) for key in ends} != ends:
        return None
    return {"method": "cse_l2", "weight": others[0].get("weight", 1)}
