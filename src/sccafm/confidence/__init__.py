"""What an edge says beyond its weight: calibrated confidence, permutation null, signs; unusual cells."""
