"""What holds for all tests."""

from hypothesis import settings

settings.register_profile("longhaul", deadline=None)  # how fast an example runs says how busy the machine is
settings.load_profile("longhaul")
