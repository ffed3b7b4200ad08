"""Many ordinary training runs (configs x seeds) as one resumable experiment; the command is
`ssod.tools.sweep`.
"""
