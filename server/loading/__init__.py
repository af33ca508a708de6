"""From a model's source to a model that answers: what is asked for, what is checked, and the steps."""
