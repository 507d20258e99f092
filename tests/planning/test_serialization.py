"""A plan as JSON, and back."""

import json

import pytest
from helpers import networks

from srptq_plugin.planning.serialization import plan_of, record_of


@pytest.mark.parametrize("kind", ["edsr", "imdn", "shared", "espcn"])
def test_a_plan_survives_json_without_its_qconfigs(kind: str) -> None:
    plan = networks.plan(kind, networks.recipe(4, "onnxruntime"))
    restored = plan_of(json.loads(json.dumps(record_of(plan))))
    assert (restored.sites, restored.convs, restored.floats) == (plan.sites, plan.convs, plan.floats)
    assert restored.qconfigs == {}


def test_a_record_from_before_limits_has_none() -> None:
    record = record_of(networks.plan("espcn", networks.recipe(8, "onnxruntime")))
    limited = [site.pop("limits") for site in record["sites"]]
    assert any(limited)
    assert {site.limits for site in plan_of(record).sites} == {None}


def test_a_record_holds_operation_keys_as_text() -> None:
    sites = record_of(networks.plan("edsr", networks.recipe()))["sites"]
    sources = {site["name"]: site["source"] for site in sites}
    assert sources["body.0/add"] == "body.0/add"
    assert sources["head.weight"] == "head.weight"


@pytest.mark.parametrize("text", ["", "body.0", "body.0/add.0", "body.0/add.x", "body.0/add.01"])
def test_a_source_that_names_no_operation_is_refused(text: str) -> None:
    record = record_of(networks.plan("edsr", networks.recipe()))
    site = next(site for site in record["sites"] if site["role"] == "activation")
    site["source"] = text
    with pytest.raises(ValueError, match=r"source .*; give an operation key such as body\.0/add\.1"):
        plan_of(record)


def test_a_weight_with_a_foreign_source_is_refused() -> None:
    record = record_of(networks.plan("edsr", networks.recipe()))
    site = next(site for site in record["sites"] if site["role"] == "weight")
    site["source"] = "other.weight"
    with pytest.raises(ValueError, match=r"source .*other\.weight.*; give the name of its parameter"):
        plan_of(record)
