"""Many ordinary training runs (configs x seeds) as one resumable experiment. The command is
`ssod.tools.sweep`.
"""
