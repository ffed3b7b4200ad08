"""TODO"""

from ssod import compat

compat.apply()
