"""From a key to a written status: observe, plan, act, report."""
