"""Host frameworks that select, assign and weight pseudo-labels in their own way: Soft Teacher and
PseCo.
"""

from ssod.methods.hosts.pseco import PseCo
from ssod.methods.hosts.soft_teacher import SoftTeacher

__all__ = ["PseCo", "SoftTeacher"]
