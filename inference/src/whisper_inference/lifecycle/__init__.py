"""The one owner of the model's state: takes commands and facts, and is alone in changing it."""
