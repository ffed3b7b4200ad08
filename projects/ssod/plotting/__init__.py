"""What a report is made of: charts, sections, their style, and what a run has written."""
