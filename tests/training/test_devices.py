"""What is asked of JAX's devices, and when."""

import jax
import pytest

from metajax.training import devices
from metajax.types import UserError


def test_one_device_is_not_counted(monkeypatch: pytest.MonkeyPatch):
    """A process that joins others must do so before JAX looks at its devices."""
    monkeypatch.setattr(jax, "device_count", lambda: pytest.fail("the devices are settled"))
    devices.make_available(1)


def test_more_devices_than_there_are_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax.config, "update", lambda *given: None)
    with pytest.raises(UserError, match="asks for more devices than there are: 1"):
        devices.make_available(3)
