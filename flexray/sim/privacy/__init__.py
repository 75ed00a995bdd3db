"""What may be learnt from updates: clipped, noised, made smaller, masked; and what that costs."""
