"""What to compute on each subtree of groups, and the one tree along which it adds up."""
