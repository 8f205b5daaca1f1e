"""What goes through inputs beside their certificates: attacks, corruptions, plans, second draws."""
