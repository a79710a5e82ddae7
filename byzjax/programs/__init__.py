"""What a function is as a program: its equations, what it reads from outside, and its compiled form."""
