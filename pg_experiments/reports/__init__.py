"""What a folder of runs says: who is compared with whom, how sure that is, as a table and as a picture. No torch."""
