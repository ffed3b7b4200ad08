"""Writes labels in the forms that annotation tools import. Each form has one file. `WRITERS` lists
them.

The readers in the folder above read the files again.
"""
