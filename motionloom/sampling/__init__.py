"""From noise to latents: schedules, guidance, and one loop for all of them."""
