from functools import partial
from pathlib import Path

import pytest

from launch.checks import links
from launch.checks.alike import check_alike
from launch.checks.check import Check
from launch.checks.clocks import Offset, check_clocks, measure_offset
from launch.checks.cluster import check_nodes
from launch.checks.links import Door, check_links, check_names, close_doors, open_door, pairs_to_try, try_door
from launch.checks.machine import MachineReport
from launch.checks.shared_root import answer_token, check_shared_root, left_token
from orchestrator.control.connect import NodeFacts
from orchestrator.control.visit import Silence, unique_names
from orchestrator.tracking.lease import MARGIN_S
from tests.fakes.clock import FakeClock
from tests.fakes.visits import FakeVisits

VERSIONS = {
    "python": "3.11.7",
    "longhaul": "0.1.0 (code 11111111)",
    "torch": "2.13.0",
    "deepspeed": "0.19.8",
    "ray": "2.60.0",
}


def report(gpus: int = 0, **versions: str) -> MachineReport:
    return MachineReport([Check("ok", "python", "3.11.7")], VERSIONS | versions, ["H100"] * gpus)


def door(address: str, **fields) -> Door:
    return Door(
        **{"address": address, "port": 1, "ports": (32768, 60999), "named": address, "interface": "eth0"} | fields
    )


def levels(checks) -> dict[str, str]:
    return {check.what: check.level for check in checks}


# ---- versions and GPUs ----


def test_nodes_alike_are_told_in_one_line():
    checks = check_alike({"node-1": report(8), "node-2": report(8, python="3.11.9")})
    assert levels(checks) == {"same versions": "ok", "same GPUs": "ok"}
    assert checks[1].detail == "8 x H100"


def test_the_odd_node_is_named_with_what_it_has():
    reports = {f"node-{i}": report() for i in range(1, 5)} | {"node-3": report(torch="2.12.1")}
    odd, _ = check_alike(reports)
    assert (odd.level, odd.detail) == ("problem", "torch 2.13.0 on 3 node(s), 2.12.1 on node-3")


def test_other_code_of_the_same_version_and_another_python_are_problems():
    for name, version in {"longhaul": "0.1.0 (code 22222222)", "python": "3.12.1"}.items():
        odd, _ = check_alike({"node-1": report(), "node-2": report(**{name: version})})
        assert odd.level == "problem"
        assert odd.detail.startswith(name)


def test_packages_that_only_touch_rounding_are_a_warning():
    odd, _ = check_alike({"node-1": report(numpy="2.4.0"), "node-2": report()})
    assert (odd.level, odd.detail) == ("warning", "numpy 2.4.0 on node-1, none on node-2")


def test_other_gpus_are_a_warning():
    _, gpus = check_alike({"node-1": report(8), "node-2": report(4), "node-3": report(8)})
    assert (gpus.level, gpus.detail) == ("warning", "8 x H100 on 2 node(s), 4 x H100 on node-2")


# ---- clocks ----


def test_half_of_the_quickest_round_trip_is_the_doubt_about_an_offset():
    clock, trips = FakeClock(), iter([(0.4, 0.4), (0.01, 0.03), (1.0, 0.2)])

    def ask_time() -> float:
        there, back = next(trips)
        clock.sleep(there)
        told = clock.now() + 2.0
        clock.sleep(back)
        return told

    offset = measure_offset(ask_time, clock, tries=3)
    assert offset is not None
    assert offset.within_s == pytest.approx(0.02)
    assert offset.ahead_s == pytest.approx(1.99)  # the way back took longer, which nobody sees: within the doubt


def test_a_node_that_stops_answering_has_no_offset():
    assert measure_offset(lambda: None, FakeClock()) is None


def test_clocks_are_judged_by_how_far_two_of_them_are_apart():
    assert check_clocks({"a": Offset(0.0, 0.01), "b": Offset(0.4, 0.01)}).level == "ok"
    assert check_clocks({"a": Offset(0.0, 0.01), "b": Offset(0.6, 0.01)}).level == "warning"
    both = check_clocks({"a": Offset(-2.0, 0.01), "b": Offset(0.0, 0.01), "c": Offset(2.0, 0.01)})
    assert (both.level, both.detail) == ("problem", "a is 2.0 s behind, c is 2.0 s ahead")
    assert check_clocks({"a": Offset(0.0, 0.0), "b": Offset(-MARGIN_S - 0.1, 0.0)}).level == "problem"
    assert check_clocks({"a": Offset(0.0, 0.0), "b": Offset(-MARGIN_S + 0.1, 0.0)}).level == "warning"


def test_the_clock_that_most_nodes_disagree_with_is_named_also_when_it_is_ours():
    ours_is_odd = check_clocks({"ours": Offset(0.0, 0.01), "b": Offset(5.0, 0.01), "c": Offset(5.1, 0.01)})
    assert ours_is_odd.detail == "ours is 5.0 s behind"


def test_doubt_about_a_clock_is_no_difference():
    assert check_clocks({"a": Offset(0.0, 0.01), "b": Offset(1.0, 0.9)}).level == "ok"


# ---- connections ----


def test_data_goes_through_an_open_door_and_a_closed_one_is_refused():
    opened = open_door("127.0.0.1")
    assert try_door(opened) == ""
    assert opened.interface == "lo"
    close_doors()
    assert try_door(opened) == "Connection refused"


def test_a_connection_through_which_large_packets_do_not_pass_is_told(monkeypatch):
    monkeypatch.setattr(links, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(links._Sender, "handle", lambda self: (self.request.sendall(bytes(100)), self.request.recv(1)))
    opened = open_door("127.0.0.1")
    try:
        assert try_door(opened) == "timed out after 100 of 262144 bytes"
    finally:
        close_doors()


def test_all_pairs_are_tried_on_small_clusters_and_every_node_both_ways_on_large_ones():
    assert pairs_to_try(["a", "b", "c"]) == {"a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"]}
    nodes = [f"node-{i}" for i in range(64)]
    pairs = pairs_to_try(nodes)
    assert {b for others in pairs.values() for b in others} == set(nodes)
    assert all(a not in others and len(set(others)) == 3 for a, others in pairs.items())


def test_the_pair_that_fails_is_named_with_the_ports_to_open():
    doors = {"a": door("10.0.0.1"), "b": door("10.0.0.2", ports=(20000, 29999))}
    [check] = check_links(doors, {("a", "b"): "timed out", ("b", "a"): ""})
    assert (check.level, check.detail) == ("problem", "a does not reach b: timed out")
    assert "20000-60999" in check.remedy


def test_a_node_that_is_cut_off_is_one_line():
    nodes = ["a", "b", "c", "d"]
    reasons = {(x, y): "timed out" if "c" in (x, y) else "" for x in nodes for y in nodes if x != y}
    [check] = check_links({node: door("10.0.0.1") for node in nodes}, reasons)
    assert check.detail == "c does not reach a, b, d and is not reached from a, b, d: timed out"


def test_two_failures_that_have_nothing_in_common_are_two_lines():
    nodes = ["a", "b", "c", "d"]
    reasons = {("a", "b"): "timed out", ("c", "d"): "Connection refused", ("d", "a"): ""}
    checks = check_links({node: door("10.0.0.1") for node in nodes}, reasons)
    assert [check.detail for check in checks] == [
        "a does not reach b: timed out",
        "c does not reach d: Connection refused",
    ]


def test_a_host_name_that_stands_for_the_loopback_is_a_problem_unless_the_cluster_is_there_too():
    doors = {"a": door("10.0.0.1", named="127.0.1.1"), "b": door("10.0.0.2")}
    [check] = check_names(doors)
    assert check.level == "problem"
    assert "of a stands for 127.0.1.1" in check.detail
    assert "cluster.env.GLOO_SOCKET_IFNAME=eth0" in check.remedy
    assert levels(check_names({"a": door("127.0.0.1"), "b": door("127.0.0.1")})) == {"host names": "ok"}
    assert levels(check_names({"a": door("10.0.0.1", named="")})) == {"host names": "ok"}


# ---- root ----


def test_a_folder_of_the_same_name_is_not_the_same_folder(tmp_path):
    with left_token(tmp_path) as token:
        assert answer_token(token, "node") == ""
        assert token.answer_path("node").read_text() == token.text
        token.path.write_text("of another check")
        assert "something else" in answer_token(token, "node")
        token.path.unlink()
        assert "does not see" in answer_token(token, "node")
    assert list(tmp_path.iterdir()) == []


def test_nodes_that_are_blind_in_the_same_way_are_told_together():
    [check] = check_shared_root(Path("/mnt/runs"), {"a": "", "b": "it is blind", "c": "it is blind"})
    assert (check.level, check.detail) == ("problem", "/mnt/runs on b, c: it is blind")
    assert levels(check_shared_root(Path("/mnt/runs"), {"a": "", "b": ""})) == {"same root": "ok"}


# ---- a whole cluster ----


def cluster_of(*names: str, clock: FakeClock, **told) -> FakeVisits:
    usual = {}
    for i, name in enumerate(names, start=1):
        usual[name, "look_at_machine"] = report()
        usual[name, "tell_time"] = lambda: clock.now()
        usual[name, "own_node"] = (f"{i}", "127.0.0.1")
    return FakeVisits(
        *names, told=usual | {(node, name): value for name, at in told.items() for node, value in at.items()}
    )


@pytest.fixture
def check(tmp_path):
    return partial(check_nodes, root=tmp_path / "runs", has_wandb_key=False)


def test_a_sound_cluster_has_nothing_but_ok_lines(check, tmp_path):
    clock = FakeClock()
    checkup = check(cluster_of("a", "b", "c", clock=clock), clock=clock)
    assert {one.level for one in checkup.all()} == {"ok"}
    assert set(levels(checkup.across)) == {
        "same versions", "same GPUs", "same root", "clocks", "host names", "connections",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    assert links._open == []


def test_a_node_that_does_not_answer_is_a_problem_and_is_not_asked_again(check):
    clock = FakeClock()
    visits = cluster_of("a", "b", "c", clock=clock, look_at_machine={"b": Silence("no answer within 120 s")})
    checkup = check(visits, clock=clock)
    assert [(one.level, one.what) for one in checkup.nodes["b"]] == [("problem", "answer")]
    assert {one.level for one in checkup.across} == {"ok"}
    assert [name for node, name in visits.asked if node == "b"] == ["own_node", "look_at_machine"]


def test_a_node_that_falls_silent_later_is_told_and_the_others_are_still_checked(check):
    clock = FakeClock()
    visits = cluster_of("a", "b", "c", clock=clock, tell_time={"c": Silence("no answer within 30 s")})
    checkup = check(visits, clock=clock)
    assert levels(checkup.nodes["c"])["answer"] == "problem"
    assert "open_door" not in [name for node, name in visits.asked if node == "c"]
    assert levels(checkup.across)["connections"] == "ok"


def test_a_node_alone_is_not_compared(check):
    clock = FakeClock()
    assert check(cluster_of("a", clock=clock), clock=clock).across == []


def test_every_kind_of_trouble_between_nodes_is_found(check, tmp_path):
    clock = FakeClock()
    visits = cluster_of(
        "a", "b", clock=clock,
        look_at_machine={"b": report(ray="2.61.0")},
        answer_token={"b": "it does not see what others write there: No such file or directory"},
        tell_time={"b": lambda: clock.now() + 3.5},
        try_doors={"a": lambda doors: dict.fromkeys(doors, "timed out")},
    )  # fmt: skip
    checkup = check(visits, clock=clock)
    found = {one.what: one.detail for one in checkup.across if one.level == "problem"}
    assert "ray" in found["same versions"]
    assert found["same root"].startswith(f"{tmp_path / 'runs'} on b: it does not see")
    assert found["clocks"] == "b is 3.5 s ahead"
    assert found["connections"] == "a does not reach b: timed out"


def test_a_node_whose_answer_is_not_seen_here_does_not_share_root(check):
    clock = FakeClock()
    visits = cluster_of("a", "b", clock=clock, answer_token={"b": ""})  # it writes to a folder of its own
    [same_root] = [one for one in check(visits, clock=clock).across if one.what == "same root"]
    assert same_root.level == "problem"
    assert "on b: what it writes there is not seen" in same_root.detail


def test_gpus_that_ray_was_not_told_of_are_a_warning(check):
    clock = FakeClock()
    visits = cluster_of("a", clock=clock, look_at_machine={"a": report(gpus=8)})
    offers = levels(check(visits, clock=clock).nodes["a"])
    assert offers["Ray offers"] == "warning"


def test_nodes_of_one_host_name_are_told_apart():
    nodes = [NodeFacts(node_id=f"{i:056x}"[::-1], host="vm", cpus=1, gpus=0) for i in (1, 2)]
    names = unique_names([*nodes, NodeFacts(node_id="3", host="other", cpus=1, gpus=0)])
    assert names == ["vm/100000", "vm/200000", "other"]
