"""What is learnt: the tasks, as text. No torch."""
