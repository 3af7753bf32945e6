"""What is minimised: one file per system, all behind one contract (`base.Objective`)."""
