"""The clusters that the stories run on: `local` needs root and no Docker, `kind` needs Docker and no root."""
