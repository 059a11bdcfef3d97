"""The stand-in for `typing` does what the real one does, as far as the observer uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import typing

import pytest

from otel_gil._observer import light


def _classes(base: typing.Any) -> typing.Any:
    class Point(base):  # type: ignore[misc]
        """Has a docstring."""

        x: float
        y: float = 2.0
        z: tuple[int, ...] = ()

        def sum(self) -> float:
            return float(self.x + self.y)

        @staticmethod
        def origin() -> Point:
            return Point(0.0, 0.0)

        @property
        def far(self) -> bool:
            return bool(self.x > 100)

    return Point


@pytest.mark.parametrize("base", [typing.NamedTuple, light.NamedTuple])
def test_named_tuple(base: typing.Any) -> None:
    point = _classes(base)
    assert tuple(point(1.0)) == (1.0, 2.0, ())
    assert point(1.0, z=(3,)) == (1.0, 2.0, (3,))
    assert point(1.0, 5.0) == point(y=5.0, x=1.0) != point(1.0)
    one: typing.Any = point(1.0, 5.0)
    assert (one.x, one.y, one.z, one.sum(), one.far, point.origin()) == (1.0, 5.0, (), 6.0, False, (0.0, 0.0, ()))
    assert one._replace(x=7.0, z=(1,)) == (7.0, 5.0, (1,))
    assert type(one._replace(x=7.0)) is point
    assert [*one[:2]] == [1.0, 5.0]
    x, *_ = one
    assert x == 1.0
    assert tuple in type(one).__mro__
    assert hash(one) == hash((1.0, 5.0, ()))
    with pytest.raises(TypeError):
        point()
    with pytest.raises(TypeError):
        point(1.0, 2.0, (), 4)
    with pytest.raises(AttributeError):
        one.x = 2.0
    with pytest.raises(AttributeError):
        one.other = 2.0
    with pytest.raises((ValueError, TypeError)):
        one._replace(other=1)


@pytest.mark.skipif(sys.platform != "linux", reason="the observer needs Linux")
def test_the_observer_imports_little() -> None:
    """With the stand-in in the place of `typing`, and without the package's own __init__."""
    code = """
import sys
package = sys.modules["otel_gil"] = type(sys)("otel_gil")
package.__path__ = [sys.argv[1]]
package = sys.modules["otel_gil._samplers"] = type(sys)("otel_gil._samplers")
package.__path__ = [sys.argv[1] + "/_samplers"]
from otel_gil._observer import light
sys.modules["typing"] = light
import otel_gil._observer.watch
assert otel_gil._observer.watch.Snapshot.__mro__[1:] == (tuple, object)
print(*sys.modules)
"""
    folder = os.path.dirname(os.path.dirname(light.__file__))
    command = [sys.executable, "-S", "-c", code, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"collections", "contextlib", "random", "logging", "socket", "re"} & set(done.stdout.split())
