"""What every part of the tool may expect of a cluster, of the real one as of the one in memory."""

from collections.abc import Iterator

import pytest

from estate.cluster import (
    CONFIG_MAP,
    DEPLOYMENT,
    FLAGS_MANAGER,
    MANAGER,
    Cluster,
    ClusterChanged,
    ClusterConflict,
    ClusterLacks,
    MemoryCluster,
    Object,
    extract,
    owned,
    owners,
    united,
)
from tests.cluster.manifests import config_map, variable, web


@pytest.fixture(params=["memory", "real"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """An empty namespace."""
    if request.param == "memory":
        yield MemoryCluster()
    else:
        yield request.getfixturevalue("namespace").cluster


def flags(cluster: Cluster) -> dict[str, str]:
    found = cluster.deployment("web").env("web")
    return {name: text for name, text in found.items() if name.startswith("FLAG_")}


def deployment(**values: str) -> Object:
    return web(env=[variable(name, text) for name, text in values.items()])


def test_the_same_manifest_again_changes_nothing(cluster: Cluster) -> None:
    first = cluster.apply(deployment(FLAG_A="1"))
    again = cluster.apply(deployment(FLAG_A="1"))
    assert again["metadata"]["generation"] == first["metadata"]["generation"] == 1
    assert again["spec"] == first["spec"]


def test_a_dry_run_says_what_would_be_and_changes_nothing(cluster: Cluster) -> None:
    cluster.apply(deployment(FLAG_A="1"))
    would = cluster.apply(deployment(FLAG_A="2"), dry_run=True)
    env = would["spec"]["template"]["spec"]["containers"][0]["env"]
    assert variable("FLAG_A", "2") in env
    assert flags(cluster) == {"FLAG_A": "1"}


def test_a_new_object_can_be_tried_dry(cluster: Cluster) -> None:
    cluster.apply(deployment(), dry_run=True)
    assert cluster.get(DEPLOYMENT, "web") is None


def test_what_is_not_applied_any_more_goes_and_what_others_set_stays(cluster: Cluster) -> None:
    cluster.apply(config_map("flags", a="1", b="2"))
    cluster.apply(config_map("flags", c="3"), manager="somebody")
    cluster.apply(config_map("flags", b="2"))
    assert cluster.config_map("flags").data == {"b": "2", "c": "3"}


def test_a_field_of_another_manager_is_not_taken_unless_asked(cluster: Cluster) -> None:
    cluster.apply(config_map("flags", a="1"), manager="somebody")
    with pytest.raises(ClusterConflict) as refused:
        cluster.apply(config_map("flags", a="2"))
    assert refused.value.facts["managers"] == "somebody"
    assert ".data.a" in refused.value.facts["fields"]
    cluster.apply(config_map("flags", a="2"), force=True)
    assert cluster.config_map("flags").data == {"a": "2"}
    owner = [o.manager for o in cluster.managed_fields(CONFIG_MAP, "flags") if "a" in o.data]
    assert owner == [MANAGER]


def test_what_two_managers_agree_on_belongs_to_both(cluster: Cluster) -> None:
    cluster.apply(config_map("flags", a="1"), manager="somebody")
    cluster.apply(config_map("flags", a="1"))
    cluster.apply(config_map("flags", a="1", b="2"), manager="somebody")
    cluster.apply(config_map("flags"), manager="somebody")
    assert cluster.config_map("flags").data == {"a": "1"}


def test_an_object_that_has_changed_since_it_was_read_is_left_alone(cluster: Cluster) -> None:
    cluster.apply(config_map("flags", a="1"))
    read = cluster.config_map("flags").version
    cluster.apply(config_map("flags", a="2"))
    stale = config_map("flags", a="3")
    stale["metadata"]["resourceVersion"] = read
    with pytest.raises(ClusterChanged):
        cluster.apply(stale)
    assert cluster.config_map("flags").data == {"a": "2"}


def test_a_variable_is_set_beside_those_that_were_set_before(cluster: Cluster) -> None:
    cluster.apply(deployment(OTHER="x"))
    cluster.patch_env("web", "web", {"FLAG_A": "1"})
    cluster.patch_env("web", "web", {"FLAG_B": "2"})
    cluster.patch_env("web", "web", {"FLAG_A": "3"})
    assert flags(cluster) == {"FLAG_A": "3", "FLAG_B": "2"}
    assert cluster.deployment("web").env("web")["OTHER"] == "x"
    assert cluster.deployment("web").generation == 4
    mine = {o.manager: o for o in cluster.managed_fields(DEPLOYMENT, "web")}
    assert mine[FLAGS_MANAGER].env == {("web", "FLAG_A"), ("web", "FLAG_B")}
    assert mine[FLAGS_MANAGER].operation == "Apply"
    assert mine[FLAGS_MANAGER].at is not None
    assert ("web", "OTHER") in mine[MANAGER].env


def test_a_flag_goes_over_the_first_value_of_our_own_manifest(cluster: Cluster) -> None:
    cluster.apply(deployment(FLAG_A="0"))
    cluster.patch_env("web", "web", {"FLAG_A": "10"})
    assert flags(cluster) == {"FLAG_A": "10"}


def test_a_flag_does_not_go_over_what_somebody_else_has_set(cluster: Cluster) -> None:
    cluster.apply(deployment())
    taken = cluster.get(DEPLOYMENT, "web")
    assert taken is not None
    env = [variable("FLAG_A", "50")]
    spec = {"template": {"spec": {"containers": [{"name": "web", "env": env}]}}}
    head = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    cluster.apply({**head, "spec": spec}, manager="kubectl-set")
    with pytest.raises(ClusterConflict) as refused:
        cluster.patch_env("web", "web", {"FLAG_A": "10"})
    assert refused.value.facts["managers"] == "kubectl-set"
    assert flags(cluster) == {"FLAG_A": "50"}
    cluster.patch_env("web", "web", {"FLAG_A": "10"}, force=True)
    assert flags(cluster) == {"FLAG_A": "10"}


def test_a_config_map_is_made_with_its_first_flag(cluster: Cluster) -> None:
    cluster.patch_config_map("flags", {"a": "1"})
    cluster.patch_config_map("flags", {"b": "2"})
    assert cluster.config_map("flags").data == {"a": "1", "b": "2"}
    (owner,) = cluster.managed_fields(CONFIG_MAP, "flags")
    assert (owner.manager, owner.data) == (FLAGS_MANAGER, {"a", "b"})


def test_a_merge_patch_changes_only_what_it_names(cluster: Cluster) -> None:
    cluster.apply(config_map("flags", a="1", b="2"))
    cluster.patch(CONFIG_MAP, "flags", {"data": {"a": None, "c": "3"}})
    assert cluster.config_map("flags").data == {"b": "2", "c": "3"}


def test_what_an_edit_changes_belongs_to_who_made_it_and_the_rest_stays(cluster: Cluster) -> None:
    cluster.apply(config_map("flags", a="1", b="2"), manager="somebody")

    def changed(_: Object) -> Object:
        return {"data": {"a": "5"}, "metadata": {"annotations": {"epoch": "7"}}}

    cluster.edit(CONFIG_MAP, "flags", changed, manager=FLAGS_MANAGER)
    assert cluster.config_map("flags").data == {"a": "5", "b": "2"}
    held = {owner.manager: owner for owner in cluster.managed_fields(CONFIG_MAP, "flags")}
    assert (held["somebody"].data, held[FLAGS_MANAGER].data) == ({"b"}, {"a"})
    assert held[FLAGS_MANAGER].operation == "Update"


def test_an_edit_that_meets_another_reads_again(cluster: Cluster) -> None:
    cluster.apply(config_map("flags", a="1"))
    seen: list[str] = []

    def changed(found: Object) -> Object:
        seen.append(found["data"]["a"])
        if len(seen) == 1:
            cluster.apply(config_map("flags", a="2"))
        return {"data": {"a": found["data"]["a"] + "0"}}

    cluster.edit(CONFIG_MAP, "flags", changed, manager=FLAGS_MANAGER)
    assert seen == ["1", "2"]
    assert cluster.config_map("flags").data == {"a": "20"}


def test_what_is_not_there_is_named(cluster: Cluster) -> None:
    with pytest.raises(ClusterLacks, match="Deployment web"):
        cluster.deployment("web")
    with pytest.raises(ClusterLacks, match="ConfigMap flags"):
        cluster.patch(CONFIG_MAP, "flags", {})
    cluster.delete(CONFIG_MAP, "flags")


def test_an_object_is_found_by_its_labels_until_it_is_deleted(cluster: Cluster) -> None:
    manifest = config_map("flags", a="1")
    manifest["metadata"]["labels"] = {"part-of": "shop"}
    cluster.apply(manifest)
    found = cluster.listed(CONFIG_MAP, "part-of=shop")
    assert [item["metadata"]["name"] for item in found] == ["flags"]
    assert cluster.listed(CONFIG_MAP, "part-of=office") == []
    cluster.delete(CONFIG_MAP, "flags")
    assert cluster.listed(CONFIG_MAP, "part-of=shop") == []


def test_what_stood_before_is_what_our_fields_held(cluster: Cluster) -> None:
    cluster.apply(deployment(FLAG_A="1", FLAG_B="2"))
    before = cluster.get(DEPLOYMENT, "web")
    assert before is not None
    cluster.apply(deployment(FLAG_A="5", FLAG_C="6"))
    cluster.apply(extract(before, owned(before, MANAGER)))
    assert flags(cluster) == {"FLAG_A": "1", "FLAG_B": "2"}


def test_what_is_taken_from_others_is_part_of_what_stood_before(cluster: Cluster) -> None:
    cluster.apply(config_map("flags", a="1", b="2"), manager="somebody")
    before = cluster.get(CONFIG_MAP, "flags")
    assert before is not None
    after = cluster.apply(config_map("flags", a="5"), force=True)
    tree = united(owned(before, MANAGER), owned(after, MANAGER))
    cluster.apply(extract(before, tree))
    assert cluster.config_map("flags").data == {"a": "1", "b": "2"}
    assert {o.manager for o in owners(before)} == {"somebody"}


def test_what_we_may_not_do_is_known_beforehand(cluster: Cluster) -> None:
    assert cluster.allowed("patch", "apps", "deployments")
