"""Tables, transactions and reads of the file."""
