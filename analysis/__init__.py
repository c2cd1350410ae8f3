"""What the runs mean: reads the tracked runs and turns them into tables, figures and reports. Never imports torch."""
