"""What a checkpoint has to show, for people: `report.html` and a model card beside it.

Numbers come from what was recorded (`verdicts`, `log`, the manifest), are drawn without any library (`scale`, `plot`)
and put on one page. Knows checkpoints and results; neither trainers nor models.
"""
