"""The one owner of the model's state: it takes commands and facts, and nobody else changes the state."""
