"""Pictures and pages."""

from ssod import compat

compat.apply()
