from __future__ import annotations

from wheels import chance

from torchkiln.lockfile import LockedWheel, VariantLock
from torchkiln.plan import HEAVY, MAX_LAYERS, plan_layers


def wheel(name: str, size: int, version: str = "1.0") -> LockedWheel:
    file = f"{name}-{version}-py3-none-any.whl"
    return LockedWheel(name=name, version=version, file=file, size=size, sha256=name * 3)


def lock(*wheels: LockedWheel) -> VariantLock:
    return VariantLock(variant="cpu", inputs="", python="3.11", wheels=tuple(sorted(wheels)))


def names(*wheels: LockedWheel) -> list[tuple[str, list[str]]]:
    plan = plan_layers(lock(*wheels))
    return [(group.name, [wheel.name for wheel in group.wheels]) for group in plan]


def test_wheel_of_the_threshold_has_a_layer_of_its_own_and_one_below_has_not() -> None:
    found = names(wheel("at", HEAVY), wheel("below", HEAVY - 1), wheel("above", HEAVY + 1))

    assert [("above-1.0", ["above"]), ("at-1.0", ["at"]), ("wheels", ["below"])] == found


def test_each_wheel_is_in_one_layer() -> None:
    wheels = [wheel(f"w{i}", chance(i).randrange(2 * HEAVY)) for i in range(200)]
    placed = [name for _, group in names(*wheels) for name in group]

    assert sorted(one.name for one in wheels) == sorted(placed)


def test_layers_are_capped_and_the_heaviest_stay_alone() -> None:
    """Base, light wheels and Torchkiln's own layer count, too."""
    wheels = [wheel(f"w{i:03}", HEAVY + i) for i in range(100)]
    found = names(*wheels)

    assert MAX_LAYERS == len(found) + 2
    assert [f"w{i:03}-1.0" for i in range(63, 100)] == [name for name, _ in found[:-1]]
    assert ("wheels", [f"w{i:03}" for i in range(63)]) == found[-1]


def test_wheels_of_one_size_at_the_cap_are_chosen_by_name() -> None:
    wheels = [wheel(f"w{i:03}", HEAVY) for i in range(100)]

    assert [f"w{i:03}-1.0" for i in range(37)] == [name for name, _ in names(*wheels)[:-1]]


def test_layers_and_the_wheels_in_them_are_sorted() -> None:
    found = names(wheel("z", 1), wheel("m", HEAVY), wheel("b", HEAVY), wheel("a", 1))

    assert [("b-1.0", ["b"]), ("m-1.0", ["m"]), ("wheels", ["a", "z"])] == found


def test_adding_a_package_changes_one_layer() -> None:
    before = [wheel("torch", 9 * HEAVY), wheel("triton", 2 * HEAVY), wheel("numpy", 1)]
    old = set(plan_layers(lock(*before)))

    for added in (wheel("new", 1), wheel("new", HEAVY)):
        new = set(plan_layers(lock(*before, added)))

        assert 1 == len(new - old)


def test_light_layer_is_left_out_where_all_are_heavy() -> None:
    assert [("torch-1.0", ["torch"])] == names(wheel("torch", HEAVY))


def test_nothing_gives_no_layer() -> None:
    assert [] == names()
