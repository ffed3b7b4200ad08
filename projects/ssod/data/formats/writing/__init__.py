"""Labels in the forms that annotation tools import; one file each, listed in `WRITERS`.

The readers one folder up read them back.
"""
