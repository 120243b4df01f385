"""What people are told to type, in the documentation and by the program itself."""
