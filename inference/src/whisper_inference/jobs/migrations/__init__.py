"""What changed in the tables, revision by revision. Alembic runs these scripts; `revisions.py` decides when."""
