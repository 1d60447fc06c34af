"""A registry turns names into objects and says what is nearest when it cannot."""

from __future__ import annotations

import pytest

from models_zoo.registry import Registry, UnknownName, did_you_mean


@pytest.fixture
def shapes() -> Registry:
    registry = Registry("shape", package="models_zoo.decoders")
    registry._discovered = True  # a registry of its own, without a package behind it

    @registry.register("box", "cuboid")
    class Box:
        def __init__(self, *, width: float = 1.0, height: float = 2.0):
            self.size = (width, height)

    return registry


def test_create_by_name_and_alias(shapes: Registry) -> None:
    assert shapes.create("box", width=3.0).size == (3.0, 2.0)
    assert shapes.get("cuboid") is shapes.get("box")
    assert shapes.names() == ["box", "cuboid"]
    assert list(shapes.parameters("box")) == ["width", "height"]
    assert repr(shapes) == "Registry(shape: box, cuboid)"


def test_unknown_name_says_the_nearest(shapes: Registry) -> None:
    with pytest.raises(UnknownName, match=r"'bx' is not a shape. Did you mean 'box'\? Known: box, cuboid"):
        shapes.create("bx")


def test_misspelt_keyword_says_the_nearest(shapes: Registry) -> None:
    with pytest.raises(TypeError, match=r"shape 'box' has no argument 'widht'. Did you mean 'width'\?"):
        shapes.create("box", widht=1)


def test_a_name_is_taken_once(shapes: Registry) -> None:
    with pytest.raises(ValueError, match="shape 'box' is registered twice"):
        shapes.register("box")(lambda: None)


def test_no_near_name_lists_the_choices() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == "Known: a, b"
