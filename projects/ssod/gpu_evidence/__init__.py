"""Measurements on a GPU, made by one command in minutes; the command is
`ssod.tools.gpu_evidence`.
"""
