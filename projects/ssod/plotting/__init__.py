"""The parts of a report: charts, sections, their style, and the files of a run."""
